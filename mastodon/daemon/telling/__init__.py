"""Telling: who hears of which event, by mail, webhook or heartbeat.

``compose`` decides and is pure; ``channel`` remembers, durably; ``mail``, ``webhook`` and ``heartbeat`` carry;
``teller`` joins them to the ledger's events, ``telling`` all of it to an open store.
"""
