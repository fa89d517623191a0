"""The relay: two sides, and bytes between them until one reason ends it.

Reading order: `engine` (the interface, and how a task waits for the end), `relay` (the state machine of two sides),
`endpoint` (one side), `timeouts` (time limits and the timer wheel), `loop` (one epoll set for all).
"""
