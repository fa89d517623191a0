"""What an accepted connection speaks: it is heard (step 3), refused or accepted (step 6).

Reading order: `exchange` (the interface), `websocket` (HTTP with an upgrade), `raw` (bytes, nothing to hear).
"""
