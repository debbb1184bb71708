"""What goes over the wire: frames, messages and the state machines of both ends. Pure: bytes in, messages out."""
