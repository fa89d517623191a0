"""What the tests of this folder share: authorities and certificates made on the spot."""

import pytest
import trustme


@pytest.fixture(scope="session")
def authority():
    """A certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="session")
def issue(authority, tmp_path_factory):
    """Make files of a certificate for names: (cert, key) paths."""

    def make(*names, **options):
        folder = tmp_path_factory.mktemp("certificate")
        cert = authority.issue_cert(*names, **options)
        cert.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        cert.private_key_pem.write_to_path(folder / "key.pem")
        return folder / "cert.pem", folder / "key.pem"

    return make


@pytest.fixture(scope="session")
def ca_file(authority, tmp_path_factory):
    """PEM file of the authority."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path
