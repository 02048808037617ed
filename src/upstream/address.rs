//! Classifies IP addresses by whether upstream requests may connect to them. Pure.
//!
//! Clients choose the registry, and registries choose redirects and realms. Neither may direct the
//! cache to its own network. An address with an embedded address (mapped, translated, tunnelled)
//! gets the class of the embedded address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The class of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AddressClass {
    /// Allowed for all registries.
    Public,
    /// Loopback, private, shared and documentation ranges. Allowed for configured registries only.
    Local,
    /// Link-local, metadata services, multicast, unspecified, broadcast. Allowed only if the
    /// configuration contains this exact host.
    Forbidden,
}

/// Metadata services outside the link-local ranges: Alibaba, Oracle, Azure.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

/// Metadata services among the unique local addresses: AWS (instance, pod identity), Google,
/// Oracle, Scaleway.
const METADATA_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

pub(super) fn classify(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    if METADATA_V4.contains(&address) {
        return AddressClass::Forbidden;
    }
    match address.octets() {
        // "This network". Linux connects 0.0.0.0 to the host itself.
        [0, ..] => AddressClass::Forbidden,
        [169, 254, ..] => AddressClass::Forbidden,
        // Multicast, reserved, broadcast.
        [224..=255, ..] => AddressClass::Forbidden,
        [10, ..] | [127, ..] | [192, 168, ..] => AddressClass::Local,
        [172, second, ..] if second & 0xf0 == 16 => AddressClass::Local,
        // Carrier-grade NAT.
        [100, second, ..] if second & 0xc0 == 64 => AddressClass::Local,
        // Protocol assignments, documentation, the retired 6to4 relay, benchmarks.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] => AddressClass::Local,
        [198, 51, 100, _] | [203, 0, 113, _] => AddressClass::Local,
        _ => AddressClass::Public,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    if METADATA_V6.contains(&address) {
        return AddressClass::Forbidden;
    }
    if address == Ipv6Addr::LOCALHOST {
        return AddressClass::Local;
    }
    let segments = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        classify_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // `::/128` matches as 0.0.0.0. The three arms are IPv4-compatible, mapped and translated
        // addresses.
        [0, 0, 0, 0, 0, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low),
        [0, 0, 0, 0, 0xffff, 0, high, low] => v4(high, low),
        // NAT64 with its well-known prefix. Networks with DNS64 reach public IPv4 hosts at these
        // addresses.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        // 6to4.
        [0x2002, high, low, ..] => v4(high, low),
        // Teredo. Contains the client's IPv4 address XORed and its server's address in the clear.
        // No registry uses Teredo.
        [0x2001, 0, ..] => AddressClass::Forbidden,
        // The rest of the protocol assignments (benchmarks, ORCHID) and documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => AddressClass::Local,
        [0x3fff, second, ..] if second < 0x1000 => AddressClass::Local,
        // ISATAP: the interface identifier is an IPv4 address.
        [first, _, _, _, 0 | 0x200, 0x5efe, high, low] if is_global(first) => v4(high, low),
        [first, ..] if is_global(first) => AddressClass::Public,
        // Unique local, and the site-local addresses before them.
        [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => AddressClass::Local,
        // Link-local, multicast, discard, local NAT64 and unassigned ranges.
        _ => AddressClass::Forbidden,
    }
}

/// Returns whether the address is global unicast (2000::/3).
fn is_global(first: u16) -> bool {
    first & 0xe000 == 0x2000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_own_network_are_distinguished_from_public_ones() {
        use AddressClass::*;
        let table: &[(AddressClass, &[&str])] = &[
            (
                Public,
                &[
                    "1.1.1.1",
                    "8.8.8.8",
                    "9.255.255.255",
                    "11.0.0.0",
                    "100.63.255.255",
                    "100.128.0.0",
                    "126.255.255.255",
                    "128.0.0.0",
                    "169.253.255.255",
                    "169.255.0.0",
                    "172.15.255.255",
                    "172.32.0.0",
                    "192.0.1.0",
                    "192.167.255.255",
                    "192.169.0.0",
                    "198.17.255.255",
                    "198.20.0.0",
                    "198.51.99.255",
                    "198.51.101.0",
                    "203.0.112.255",
                    "203.0.114.0",
                    "223.255.255.255",
                    "168.63.129.15",
                    "2606:4700::1111",
                    "2a00:1450::1",
                    "2001:200::1",
                    "2001:4860:4860::8888",
                    "::ffff:8.8.8.8",
                    "64:ff9b::8.8.8.8",
                    "2002:808:808::1",
                    "3ffe::1",
                    "2600::5efe:808:808",
                ],
            ),
            (
                Local,
                &[
                    "10.0.0.0",
                    "10.255.255.255",
                    "127.0.0.1",
                    "127.255.255.255",
                    "172.16.0.0",
                    "172.31.255.255",
                    "192.168.0.0",
                    "192.168.255.255",
                    "100.64.0.0",
                    "100.127.255.255",
                    "192.0.0.1",
                    "192.0.2.1",
                    "192.88.99.1",
                    "198.18.0.0",
                    "198.19.255.255",
                    "198.51.100.1",
                    "203.0.113.255",
                    "::1",
                    "::127.0.0.1",
                    "::ffff:127.0.0.1",
                    "::ffff:10.0.0.1",
                    "::ffff:192.168.1.1",
                    "::ffff:0:127.0.0.1",
                    "64:ff9b::127.0.0.1",
                    "64:ff9b::10.1.2.3",
                    "2002:7f00:1::",
                    "2002:a00:1::1",
                    "2002:c0a8:1::",
                    "fc00::1",
                    "fd00::1",
                    "fdff:ffff::1",
                    "fec0::1",
                    "2001:db8::1",
                    "2001:2::1",
                    "2001:10::1",
                    "2001:20::1",
                    "3fff::1",
                    "3fff:fff::1",
                    "2600::5efe:10.0.0.1",
                    "2600::200:5efe:127.0.0.1",
                ],
            ),
            (
                Forbidden,
                &[
                    "0.0.0.0",
                    "0.1.2.3",
                    "169.254.0.1",
                    "169.254.169.254",
                    "169.254.170.2",
                    "100.100.100.200",
                    "192.0.0.192",
                    "168.63.129.16",
                    "224.0.0.1",
                    "239.255.255.255",
                    "240.0.0.1",
                    "255.255.255.255",
                    "::",
                    "::ffff:0.0.0.0",
                    "::ffff:169.254.169.254",
                    "::169.254.169.254",
                    "64:ff9b::169.254.169.254",
                    "2002:a9fe:a9fe::",
                    "fe80::1",
                    "febf::1",
                    "fe80::a9fe:a9fe",
                    "ff02::1",
                    "ff0e::1",
                    "fd00:ec2::254",
                    "fd00:ec2::23",
                    "fd20:ce::254",
                    "64:ff9b:1::1",
                    "100::1",
                    "2001::1",
                    "2001:0:7f00:1::",
                    "5f00::1",
                    "4000::1",
                    "::ffff:255.255.255.255",
                    "::ffff:224.0.0.1",
                    "::1:0:0:0",
                    "fe00::1",
                ],
            ),
        ];
        for (class, addresses) in table {
            for address in *addresses {
                assert_eq!(classify(address.parse().unwrap()), *class, "{address}");
            }
        }
    }
}
