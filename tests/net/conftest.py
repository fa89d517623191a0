"""What the tests of this directory share: TLS contexts for peers, and TLS as we do it, by each implementation."""

import pytest

from tests.net.tls_ends import OurTls
from tests.tls_contexts import server_context
from tests.tls_providers import providers
from wsbridge.net.tls import client_context


@pytest.fixture(scope="session")
def contexts(issue, ca_file):
    """Contexts of a server called localhost and of a client that trusts it."""
    return server_context([issue("localhost")]), client_context(ca_file)


@pytest.fixture(params=providers())
def our_tls(request, issue, ca_file):
    """Our TLS, as a server called localhost and as a client."""
    return OurTls(request.param, issue("localhost"), ca_file)
