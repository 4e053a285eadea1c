//! Proves that WASI grants nothing: with the setting `attack`, it fails with a list of what it found. Without the
//! setting, it answers with no hits, so that it can be deployed.

use assay_bindings::{Error, Guest, Request, Response, Usage};

#[allow(
    unsafe_code,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes_without_reason,
    reason = "wit-bindgen wrote it"
)]
mod wasi {
    wit_bindgen::generate!({
        inline: "
            package conformance:looks-around;

            world looker {
                import wasi:cli/environment@0.2.0;
                import wasi:filesystem/preopens@0.2.0;
                import wasi:clocks/wall-clock@0.2.0;
                import wasi:clocks/monotonic-clock@0.2.0;
                import wasi:sockets/tcp-create-socket@0.2.0;
            }

            package wasi:cli@0.2.0 {
                interface environment {
                    get-environment: func() -> list<tuple<string, string>>;
                    get-arguments: func() -> list<string>;
                }
            }

            package wasi:filesystem@0.2.0 {
                interface types {
                    resource descriptor;
                }
                interface preopens {
                    use types.{descriptor};
                    get-directories: func() -> list<tuple<descriptor, string>>;
                }
            }

            package wasi:clocks@0.2.0 {
                interface wall-clock {
                    record datetime { seconds: u64, nanoseconds: u32 }
                    now: func() -> datetime;
                }
                interface monotonic-clock {
                    now: func() -> u64;
                }
            }

            package wasi:sockets@0.2.0 {
                interface network {
                    enum error-code {
                        unknown,
                        access-denied,
                        not-supported,
                        invalid-argument,
                        out-of-memory,
                        timeout,
                        concurrency-conflict,
                        not-in-progress,
                        would-block,
                        invalid-state,
                        new-socket-limit,
                        address-not-bindable,
                        address-in-use,
                        remote-unreachable,
                        connection-refused,
                        connection-reset,
                        connection-aborted,
                        datagram-too-large,
                        name-unresolvable,
                        temporary-resolver-failure,
                        permanent-resolver-failure,
                    }
                    enum ip-address-family { ipv4, ipv6 }
                }
                interface tcp {
                    resource tcp-socket;
                }
                interface tcp-create-socket {
                    use network.{error-code, ip-address-family};
                    use tcp.{tcp-socket};
                    create-tcp-socket: func(address-family: ip-address-family) -> result<tcp-socket, error-code>;
                }
            }
        ",
        world: "conformance:looks-around/looker",
        generate_all,
    });
}

struct LooksAround;

impl Guest for LooksAround {
    fn rerank(request: Request) -> Result<Response, Error> {
        if request.settings.iter().all(|(name, _)| name != "attack") {
            return Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } });
        }
        use wasi::wasi::{cli::environment, clocks, filesystem::preopens, sockets};
        let socket = sockets::tcp_create_socket::create_tcp_socket(sockets::network::IpAddressFamily::Ipv4);
        Err(Error::Internal(format!(
            "{} variables, {} arguments, {} directories, {} s, {} ns, socket: {}",
            environment::get_environment().len(),
            environment::get_arguments().len(),
            preopens::get_directories().len(),
            clocks::wall_clock::now().seconds,
            clocks::monotonic_clock::now(),
            socket.map_or_else(|error| error.name().to_owned(), |_| "made".to_owned()),
        )))
    }
}

assay_bindings::export!(LooksAround);
