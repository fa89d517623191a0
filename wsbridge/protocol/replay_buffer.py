"""The bytes of a stream from the peer's acknowledgement to its end, by absolute position, and how far they were sent."""
