"""The fault rig: whatever dies, breaks or comes back wrong, what was acknowledged is restored (P9, P10).

``python -m bench.faults`` puts up installations, does a fault to each in turn, lets the next run of the agent finish,
and then checks from outside: every acknowledged snapshot is restored by the admin's client and by ``mastodon-recover``
from the spools alone, and compared with a record that the rig made of the tree when it was backed up.

What is real: the programs, from their entry points on, in processes of their own; TLS over loopback; the files. What is
not: programs are forked from one process that has imported them all, so that a point costs tenths of a second; of the
stretching of passphrases only little is done; gpg opens each envelope once, and its answer is remembered (programs.py).
"""
