"""What the tests of this directory share: the TLS contexts of a server and of a client."""

import pytest

from tests.tls_contexts import server_context
from wsbridge.net.tls import client_context


@pytest.fixture(scope="session")
def contexts(issue, ca_file):
    """Contexts of a server called localhost and of a client that trusts it."""
    return server_context([issue("localhost")]), client_context(ca_file)
