"""The relay: two endpoints, and bytes between them until one reason ends it.

Reading order: `terms` (what a route asks of it), `endpoint` (a framing over a wire), `engine` (the interface the spine
calls, and the choice), `pump` (one epoll set for all pairs), `pair` (two endpoints: moving, and what one side's end
means for the other), `ending` (how each side is ended), `liveness` (what time does to a pair), `wheel` (when it is
looked at).
"""
