//! What rustls is told of certificates: ours by name, and who judges the peer's.

use crate::certificate::public_key;
use crate::tls::{ServerConfigs, HTTP_1_1};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::Resumption;
use rustls::crypto::{ring, verify_tls13_signature_with_raw_key, CryptoProvider};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, CipherSuiteCommon, ClientConfig, DigitallySignedStruct, DistinguishedName,
    Error, ServerConfig, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
    Tls12CipherSuite,
};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};
use webpki::RawPublicKeyEntity;

/// Judges the certificates that a peer shows, its own first; the signatures of the handshake are for rustls.
pub trait Judge: Send + Sync {
    /// `name` is the one that a server has to have; empty for clients.
    fn judge(&self, chain: &[&[u8]], name: &str) -> Result<(), CertificateError>;
}

/// Has a `Judge` judge; without one, every certificate is accepted.
struct Verifier {
    judge: Option<Arc<dyn Judge>>,
    required: bool,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    fn judged(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &str,
    ) -> Result<(), Error> {
        let Some(judge) = &self.judge else {
            return Ok(());
        };
        let chain: Vec<&[u8]> = std::iter::once(end_entity)
            .chain(intermediates)
            .map(AsRef::as_ref)
            .collect();
        judge.judge(&chain, name).map_err(Error::InvalidCertificate)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }

    fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = key_of(certificate)?;
        let unreadable = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let key = RawPublicKeyEntity::try_from(&key).map_err(unreadable)?;
        let algorithms = self.provider.signature_verification_algorithms.mapping;
        let mut fitting = algorithms
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, algorithms)| algorithms.iter());
        if fitting.any(|it| {
            key.verify_signature(*it, message, signed.signature())
                .is_ok()
        }) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        Err(CertificateError::BadSignature.into())
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key_of(certificate)?, signed, algorithms)
    }
}

/// The key of a certificate, which rustls itself would only read of those that it would also accept.
fn key_of<'a>(certificate: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'a>, Error> {
    let key = public_key(certificate).ok_or(CertificateError::BadEncoding)?;
    Ok(SubjectPublicKeyInfoDer::from(key))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judged(end_entity, intermediates, &server_name.to_str())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judged(end_entity, intermediates, "")?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// Chooses the certificate by the name that a client asks for.
#[derive(Debug)]
struct ByName {
    default: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.by_name.get(&name).or_else(|| {
            let (_, domain) = name.split_once('.').unwrap_or_default();
            self.by_name.get(&format!("*.{domain}"))
        })
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = client_hello.server_name().and_then(|name| self.find(name));
        Some(found.unwrap_or(&self.default).clone())
    }
}

/// What does the cryptography: ring.
///
/// TLS 1.2 cannot change the keys of a connection. So its suites are without the limit of 2^24 records, after which rustls
/// would break a connection off: OpenSSL has none.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = ring::default_provider();
        for suite in &mut provider.cipher_suites {
            if let SupportedCipherSuite::Tls12(found) = suite {
                *suite = SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                    common: CipherSuiteCommon {
                        confidentiality_limit: u64::MAX,
                        ..found.common
                    },
                    ..**found
                })));
            }
        }
        Arc::new(provider)
    });
    PROVIDER.clone()
}

/// A certificate chain and its key, DER.
pub struct KeyPair {
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8, PKCS #1 or SEC 1.
    pub key: Vec<u8>,
}

impl KeyPair {
    fn load(self, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
        let key = PrivateKeyDer::try_from(self.key).map_err(|text| Error::General(text.into()))?;
        let key = provider.key_provider.load_private_key(key)?;
        let chain = self.chain.into_iter().map(CertificateDer::from).collect();
        Ok(CertifiedKey::new(chain, key)) // that they fit each other, OpenSSL has verified
    }
}

/// What a listener is configured to do.
#[derive(Default)]
pub struct ServerOptions {
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
    /// Whether clients are asked for a certificate, and whether they have to have one.
    pub client_certificate: Option<bool>,
    /// Judges those.
    pub judge: Option<Arc<dyn Judge>>,
}

/// Makes the configurations of a listener; each certificate comes with its names, the first is the default.
pub fn server_configs(
    certificates: Vec<(KeyPair, Vec<String>)>,
    options: &ServerOptions,
) -> Result<ServerConfigs, Error> {
    let provider = provider();
    let mut default = None;
    let mut by_name = HashMap::new();
    for (pair, names) in certificates {
        let loaded = Arc::new(pair.load(&provider)?);
        for name in names {
            by_name.entry(name).or_insert_with(|| loaded.clone());
        }
        default.get_or_insert(loaded);
    }
    let default = default.ok_or_else(|| Error::General("no certificate".into()))?;
    let resolver = Arc::new(ByName { default, by_name });
    let versions: &[&SupportedProtocolVersion] = if options.only_tls13 {
        &[&TLS13]
    } else {
        &[&TLS13, &TLS12]
    };
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
    let builder = match options.client_certificate {
        None => builder.with_no_client_auth(),
        Some(required) => builder.with_client_cert_verifier(Arc::new(Verifier {
            judge: options.judge.clone(),
            required,
            provider,
        })),
    };
    let mut without_alpn = builder.with_cert_resolver(resolver);
    without_alpn.ignore_client_order = true;
    without_alpn.session_storage = Arc::new(NoServerSessionStorage {}); // tickets do it without memory
    without_alpn.ticketer = ring::Ticketer::new()?;
    without_alpn.send_tls13_tickets = 1; // a client comes back over one connection at a time
    let mut usual = without_alpn.clone();
    usual.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(ServerConfigs {
        usual: Arc::new(usual),
        without_alpn: Arc::new(without_alpn),
    })
}

/// Makes the configuration of a client; without a judge it accepts every server.
pub fn client_config(
    judge: Option<Arc<dyn Judge>>,
    certificate: Option<KeyPair>,
    alpn: Vec<Vec<u8>>,
) -> Result<ClientConfig, Error> {
    let provider = provider();
    let verifier = Arc::new(Verifier {
        judge,
        required: false,
        provider: provider.clone(),
    });
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = SingleCertAndKey::from(pair.load(&provider)?);
            builder.with_client_cert_resolver(Arc::new(key))
        }
    };
    config.alpn_protocols = alpn;
    config.resumption = Resumption::disabled(); // a session that goes on is not judged again
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_tls_1_2_last_as_long_as_those_of_openssl() {
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let pair = KeyPair {
            chain: vec![made.cert.der().to_vec()],
            key: made.signing_key.serialize_der(),
        };
        let server = server_configs(vec![(pair, Vec::new())], &ServerOptions::default()).unwrap();
        let client = client_config(None, None, Vec::new()).unwrap();
        for provider in [
            server.usual.crypto_provider(),
            server.without_alpn.crypto_provider(),
            client.crypto_provider(),
        ] {
            let mut versions = 0;
            for suite in &provider.cipher_suites {
                if let SupportedCipherSuite::Tls12(suite) = suite {
                    assert_eq!(suite.common.confidentiality_limit, u64::MAX, "{suite:?}");
                    versions += 1;
                }
            }
            assert!(versions > 0);
        }
    }

    #[test]
    fn names_and_wildcards_choose_the_certificate() {
        let provider = ring::default_provider();
        let load = || {
            let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
            let pair = KeyPair {
                chain: vec![made.cert.der().to_vec()],
                key: made.signing_key.serialize_der(),
            };
            Arc::new(pair.load(&provider).unwrap())
        };
        let (exact, wild) = (load(), load());
        let names = ByName {
            default: load(),
            by_name: HashMap::from([
                ("a.example.org".to_owned(), exact.clone()),
                ("*.wild.org".to_owned(), wild.clone()),
            ]),
        };
        for (name, expected) in [
            ("a.example.org", Some(&exact)),
            ("A.Example.org.", Some(&exact)),
            ("x.wild.org", Some(&wild)),
            ("y.x.wild.org", None),
            ("wild.org", None),
            ("", None),
        ] {
            let found = names.find(name);
            assert!(
                match (found, expected) {
                    (Some(found), Some(expected)) => Arc::ptr_eq(found, expected),
                    (found, expected) => found.is_none() && expected.is_none(),
                },
                "{name}"
            );
        }
    }
}
