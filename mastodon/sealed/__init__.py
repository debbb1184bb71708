"""The formats: what is sealed, signed, hashed and kept. Pure: no I/O, no clock, no Twisted."""
