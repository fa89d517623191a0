"""TLS contexts: SNI, versions, ALPN, verification, and the words for files that cannot be used."""

import contextlib
import datetime
import ssl
import subprocess
import types

import pytest
import trustme

from tests.tls_contexts import server_context
from wsbridge.file_watcher import FileWatcher
from wsbridge.net import tls
from wsbridge.net.tls import ClientTlsOptions, TlsError, client_context, is_truncated, tls_error_text


def reasoned(reason):
    """An error of OpenSSL with this reason."""
    error = ssl.SSLError(1, "odd")
    error.reason = reason
    return error


EOF_OF_3_11_2 = reasoned("UNEXPECTED_EOF_WHILE_READING")


def shake(server, client, name=None):
    """A handshake in memory; gives both sides."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    done = set()
    while len(done) < 2:
        for side in (theirs, ours):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    return ours, theirs


def names(connection):
    """Give the names in the peer's certificate."""
    return {value for _, value in connection.getpeercert()["subjectAltName"]}


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("a.example.org", "a.example.org"),
        ("b.example.org", "b.example.org"),
        ("x.wild.example.org", "*.wild.example.org"),
    ],
)
def test_certificates_are_chosen_by_name(issue, ca_file, asked, given):
    """Exact names and wildcards of each certificate's SAN pick it."""
    server = server_context([issue("a.example.org"), issue("b.example.org"), issue("*.wild.example.org")])
    _, client = shake(server, client_context(ca_file), asked)

    assert names(client) == {given}


@pytest.mark.parametrize("asked", ["other.example.org", "deep.x.wild.example.org", "wild.example.org", None])
def test_the_first_certificate_serves_all_other_names(issue, ca_file, asked):
    """No name, an unknown one, or one that a wildcard does not cover gets the default."""
    server = server_context([issue("a.example.org"), issue("*.wild.example.org")])
    client = client_context(ca_file)
    client.check_hostname = False
    _, connection = shake(server, client, asked)

    assert names(connection) == {"a.example.org"}


def test_names_are_compared_without_case_and_final_dot(issue, ca_file):
    """DNS names have no case."""
    server = server_context([issue("a.example.org"), issue("B.Example.org")])
    client = client_context(ca_file)
    client.check_hostname = False
    _, connection = shake(server, client, "b.EXAMPLE.org")

    assert names(connection) != {"a.example.org"}


def test_alpn_is_http_1_1(issue, ca_file):
    """Browsers that offer h2 as well get http/1.1."""
    server = server_context([issue("a.example.org")])
    ours, theirs = shake(server, client_context(ca_file, alpn=["h2", "http/1.1"]), "a.example.org")

    assert (ours.selected_alpn_protocol(), theirs.selected_alpn_protocol()) == ("http/1.1", "http/1.1")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_1_is_refused(issue, ca_file):
    """TLS 1.2 is the least."""
    client = client_context(ca_file)
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake(server_context([issue("a.example.org")]), client, "a.example.org")


@pytest.mark.parametrize("cipher", ["ECDHE-RSA-AES256-SHA", "AES128-GCM-SHA256"])
def test_weak_suites_are_refused(issue, ca_file, cipher):
    """Under TLS 1.2: no CBC, no key exchange without forward secrecy."""
    client = client_context(ca_file)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake(server_context([issue("a.example.org")]), client, "a.example.org")


def test_tls_1_2_works(issue, ca_file):
    """With a suite that has both."""
    client = client_context(ca_file)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    ours, _ = shake(server_context([issue("a.example.org")]), client, "a.example.org")

    assert ours.version() == "TLSv1.2"


def test_memory_is_given_back_between_records(issue):
    """Idle connections keep no record buffers: SSL_MODE_RELEASE_BUFFERS is CPython's default, renegotiation is off."""
    context = server_context([issue("a.example.org")])
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION


def test_verification_is_the_default(issue):
    """An authority that the system does not know is refused, in OpenSSL's words."""
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake(server_context([issue("a.example.org")]), client_context(), "a.example.org")
    assert tls_error_text(caught.value).startswith("certificate verify failed: ")
    assert "issuer" in tls_error_text(caught.value)


def test_the_name_is_verified(issue, ca_file):
    """A certificate for another name is refused."""
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake(server_context([issue("a.example.org")]), client_context(ca_file), "b.example.org")
    text = tls_error_text(caught.value)
    assert "Hostname mismatch" in text
    assert text.endswith("not valid for 'b.example.org'; dial a name that it has, or set server_name to one")


def test_insecure_takes_anything(issue):
    """Only where it is asked for."""
    ours, _ = shake(server_context([issue("a.example.org")]), client_context(insecure=True), "b.example.org")
    assert ours.version()


def test_client_certificate(issue, ca_file):
    """A server that asks for one gets it."""
    server = server_context([issue("a.example.org")])
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(str(ca_file))
    ours, theirs = shake(server, client_context(ca_file, issue("client.example.org")), "a.example.org")

    assert theirs.version()
    assert names(ours) == {"client.example.org"}


def test_key_of_another_certificate(issue):
    """The message names the key and the certificate."""
    cert, _ = issue("a.example.org")
    _, key = issue("b.example.org")
    with pytest.raises(TlsError) as caught:
        server_context([(cert, key)])
    assert str(caught.value) == f"the private key {key} does not belong to the certificate {cert}"
    assert caught.value.file == key


@pytest.mark.parametrize("days", [-9, 1])
def test_certificates_that_are_not_valid_now(issue, days):
    """They are served, as other servers do: clients judge them, and `check` warns of them."""
    begin = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    cert, key = issue("a.example.org", not_before=begin, not_after=begin + datetime.timedelta(days=5))
    ours, theirs = shake(server_context([(cert, key)]), client_context(insecure=True), "a.example.org")
    assert ours.version() == theirs.version() == "TLSv1.3"


def test_certificates_with_odd_extensions_are_served(tmp_path):
    """Key usage of an authority, for clients only, a private critical extension: other servers accept them."""
    path = tmp_path / "odd.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    odd = ["keyUsage=critical,keyCertSign", "extendedKeyUsage=clientAuth", "1.2.3.4.5=critical,ASN1:NULL"]
    extensions = [word for each in ("subjectAltName=DNS:gw", *odd) for word in ("-addext", each)]
    made = subprocess.run([*command, "-subj", "/CN=gw", *extensions, "-keyout", "-"], check=True, capture_output=True)
    path.write_bytes(b"# not ENCRYPTED\n" + made.stdout)
    ours, _ = shake(server_context([(path, path)]), client_context(insecure=True), "gw")
    assert ours.version() == "TLSv1.3"


def test_versions_and_ciphers(issue):
    """Both are the listener's to choose."""
    pair = issue("a.example.org")
    old = client_context(insecure=True)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    ours, _ = shake(server_context([pair], ciphers="ECDHE+CHACHA20"), old)
    assert "CHACHA20" in ours.cipher()[0]
    with pytest.raises(ssl.SSLError):
        shake(server_context([pair], min_version="1.3"), old)


def test_keys_with_a_passphrase(issue, tmp_path):
    """It is that of the configuration."""
    cert, key = issue("a.example.org")
    locked = tmp_path / "locked.pem"
    subprocess.run(["openssl", "pkey", "-aes128", "-passout", "pass:geheim", "-in", key, "-out", locked], check=True)
    ours, _ = shake(server_context([(cert, locked, "geheim")]), client_context(insecure=True))
    assert ours.version()
    with pytest.raises(TlsError, match="the passphrase does not decrypt"):
        server_context([(cert, locked, "wrong")])


@pytest.mark.parametrize("bad", ["missing", "empty", "swapped", "encrypted", "other form"])
def test_unusable_files(issue, tmp_path, bad):
    """Each is one sentence that names the file; nothing asks for a password."""
    cert, key = issue("a.example.org")
    other = tmp_path / "other.pem"
    if bad == "empty":
        other.write_text("")
        pairs = [((other, key), f"{other} holds no certificate"), ((cert, other), f"{other} holds no private key")]
    elif bad == "missing":
        pairs = [((other, key), f"{other} cannot be read: No such file"), ((cert, other), f"{other} cannot be read")]
    elif bad == "swapped":
        pairs = [((key, cert), f"{key} holds no certificate in PEM form")]
    elif bad == "other form":
        other.write_text(cert.read_text().replace(" CERTIFICATE--", " X509 CERTIFICATE--"))
        pairs = [((other, key), f"{other} holds no certificate in PEM form")]
    else:
        subprocess.run(["openssl", "pkey", "-aes128", "-passout", "pass:secret", "-in", key, "-out", other], check=True)
        pairs = [((cert, other), f"the private key {other} has a passphrase: write key_password")]
    for pair, text in pairs:
        with pytest.raises(TlsError) as caught:
            server_context([pair])
        assert str(caught.value).startswith(text)


@pytest.mark.parametrize(("content", "text"), [(None, "cannot be read"), ("x", "holds no certificate in PEM form")])
def test_unusable_authorities(tmp_path, content, text):
    """A CA file that is missing or no PEM."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TlsError, match=text):
        client_context(path)


def test_self_signed_certificate_for_the_listener(tmp_path):
    """A leaf that is its own authority works, as `openssl req -x509` makes it."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run(
        [*command, "-days", "2", "-subj", "/CN=gw", "-addext", "subjectAltName=DNS:gw", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    _, client = shake(server_context([(cert, key)]), client_context(cert), "gw")
    assert client.version()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (ssl.SSLEOFError(8, "EOF occurred"), "the peer closed the connection in the TLS handshake"),
        (EOF_OF_3_11_2, "the peer closed the connection in the TLS handshake"),
        (OSError("odd"), "odd"),
        (
            reasoned("PEER_DID_NOT_RETURN_A_CERTIFICATE"),
            "the client showed no certificate, and client_certificate is required",
        ),
        (reasoned("CALLBACK_FAILED"), "the name that the client asks for (SNI) is not ASCII"),
    ],
)
def test_failure_text(error, text):
    """Failures that are not OpenSSL's keep the system's words."""
    assert tls_error_text(error) == text


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_fin_is_no_orderly_end_whatever_python_thinks(issue, ca_file, monkeypatch, role):
    """In some versions of Python, OpenSSL accepts an end without close_notify; our contexts do not."""

    def lenient(protocol):
        made = ssl.SSLContext(protocol)
        made.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        return made

    python_3_11_2 = types.ModuleType("ssl")
    vars(python_3_11_2).update({**vars(ssl), "SSLContext": lenient})
    monkeypatch.setattr(tls, "ssl", python_3_11_2)
    context = server_context([issue("localhost")]) if role == "server" else client_context(ca_file)

    assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF


@pytest.mark.parametrize(
    ("error", "cut"),
    [
        (ssl.SSLEOFError(8, "EOF occurred"), True),
        (EOF_OF_3_11_2, True),
        (ssl.SSLError(1, "bad record"), False),
        (ssl.SSLZeroReturnError(6, "closed"), False),
        (ConnectionResetError(104, "reset"), False),
    ],
    ids=repr,
)
def test_an_end_without_close_notify_by_any_name(error, cut):
    """A class of its own, or a reason; nothing else is one."""
    assert is_truncated(error) is cut


@pytest.mark.parametrize("asked", ["a.example.org", "b.example.org", "other.example.org"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_every_name_asks_for_the_clients_certificate(issue, ca_file, asked, version):
    """For any certificate that SNI selects, a missing client certificate is an error, and one sent is verified."""
    certificates = [issue("a.example.org"), issue("b.example.org")]
    client = client_context(ca_file)
    client.check_hostname = False
    client.maximum_version = version
    with pytest.raises(ssl.SSLError) as caught:
        shake(server_context(certificates, ca_file), client, asked)
    assert tls_error_text(caught.value, peer_is_client=True).startswith("the client showed no certificate")

    client.load_cert_chain(*issue("alice.example.org"))
    ours, _ = shake(server_context(certificates, ca_file), client, asked)
    assert names(ours) == {"alice.example.org"}


@pytest.mark.parametrize("asked", ["a.example.org", "b.example.org"])
def test_a_client_may_show_none_where_it_is_optional(issue, ca_file, asked):
    """But one of a stranger is refused there as well, in words that say whose it is."""
    server = server_context(
        [issue("a.example.org"), issue("b.example.org")], ca_file, client_certificate_required=False
    )
    client = client_context(ca_file)
    ours, _ = shake(server, client, asked)
    assert ours.getpeercert() is None

    stranger = trustme.CA().issue_cert("alice.example.org")
    stranger.configure_cert(client)
    with pytest.raises(ssl.SSLError) as caught:
        shake(server, client, asked)
    assert tls_error_text(caught.value, peer_is_client=True).startswith(
        "the client's certificate is not accepted by client_ca: "
    )


def test_authorities_of_clients_that_cannot_be_used(issue, tmp_path):
    """The file is named."""
    for path, words in ((tmp_path / "none.pem", "cannot be read"), (issue("gw")[1], "holds no certificate")):
        with pytest.raises(TlsError, match=words) as caught:
            server_context([issue("gw")], path)
        assert caught.value.file == path


def test_an_unknown_authority_has_a_remedy(issue, monkeypatch):
    """It says what to set, and where the host has no authorities at all, that."""
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake(server_context([issue("a.example.org")]), client_context(), "a.example.org")
    monkeypatch.setattr(tls, "has_system_authorities", lambda: True)
    assert "set ca to a file with the certificate of its authority" in tls_error_text(caught.value)
    monkeypatch.setattr(tls, "has_system_authorities", lambda: False)
    assert "this host has no certificate authorities: install them (ca-certificates)" in tls_error_text(caught.value)


def test_a_host_without_authorities_is_noticed(tmp_path, monkeypatch):
    """By OpenSSL's own places, which the environment can move."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert not tls.has_system_authorities()
    (tmp_path / "ca.pem").write_text("x")
    assert tls.has_system_authorities()


def test_authorities_that_cannot_be_read_are_none(tmp_path, monkeypatch):
    """OpenSSL leaves them out in silence: the error of a handshake says what is wrong all the same."""
    places = tmp_path / "certs"
    places.mkdir()
    (places / "ca.pem").write_text("x")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(places))

    def fail(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tls.Path, "iterdir", fail)  # no mode stops root
    assert not tls.has_system_authorities()


def test_the_certificate_of_a_server_is_authority_enough(issue):
    """`ca` may hold it, or that of an intermediate authority, without the root."""
    pair = issue("a.example.org")
    shake(server_context([pair]), client_context(pair[0]), "a.example.org")


def test_a_server_with_nothing_in_common_is_explained(issue):
    """Its alert is the same as for a client certificate that is missing in TLS 1.2: both are named."""
    server, client = server_context([issue("a.example.org")]), client_context()
    server.verify_mode = ssl.CERT_REQUIRED
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    with pytest.raises(ssl.SSLError) as caught:
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                theirs.do_handshake()
            with contextlib.suppress(ssl.SSLError):
                ours.do_handshake()
    assert tls_error_text(caught.value).endswith(
        "alert handshake failure: no TLS version or cipher in common, or the server requires a client_certificate"
    )


def test_a_client_that_does_not_trust_us_is_named(issue):
    """Its alert is all that the listener sees."""
    server, client = server_context([issue("a.example.org")]), client_context()
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="a.example.org")
    with pytest.raises(ssl.SSLError) as caught:
        for _ in range(4):
            for side in (theirs, ours):
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLCertVerificationError):
                    side.do_handshake()
    text = tls_error_text(caught.value, peer_is_client=True)
    assert text.startswith("the client does not trust the certificate of the listener (")


def test_contexts_with_the_trust_store_of_the_system_are_shared(tmp_path, monkeypatch):
    """Each holds all authorities; one that is made after the store has changed has the new ones."""
    store = tmp_path / "store.pem"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(store))
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    first = tls.watched_client_context(FileWatcher()).current
    assert tls.watched_client_context(FileWatcher()).current is first
    assert tls.watched_client_context(FileWatcher(), ClientTlsOptions(alpn=("http/1.1",))).current is not first
    assert tls.watched_client_context(FileWatcher(), ClientTlsOptions(insecure=True)).current is not first
    trustme.CA().cert_pem.write_to_path(str(store), append=True)
    second = tls.watched_client_context(FileWatcher()).current
    assert second is not first
    assert len(second.get_ca_certs()) == len(first.get_ca_certs()) + 1
