"""What the tests of this folder share: the TLS contexts of a server and of a client."""

import ssl

import pytest


@pytest.fixture(scope="session")
def contexts(authority):
    """Contexts of a server called localhost and of a client that trusts it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client
