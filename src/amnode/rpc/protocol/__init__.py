"""The protocol between two machines, without I/O: bytes in, events out."""
