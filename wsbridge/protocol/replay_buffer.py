"""The bytes of a stream from the acknowledgement of the peer to its end, and how far they were sent."""
