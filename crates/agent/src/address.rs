//! A service address with the length of its network's prefix, such as `10.0.0.50/24` or `fd00::50/64`.

use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// An address and how much of it names the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceAddress {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no service address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `/`.
    #[error("`{0}` has no prefix length; write it as ADDRESS/LENGTH, such as 10.0.0.50/24")]
    NoPrefix(String),
    /// The part before the `/` is no address.
    #[error("`{0}` is not an IP address")]
    Address(String),
    /// The part after the `/` is no length for this kind of address.
    #[error("`{0}` is not a prefix length from 1 to {1}")]
    Prefix(String, u8),
    /// Loopback, unspecified or multicast: no peer could reach it.
    #[error("{0} cannot be a service's address: other machines cannot reach it")]
    Unreachable(IpAddr),
}

impl ServiceAddress {
    /// Puts both parts together.
    ///
    /// # Errors
    /// If the length does not fit the address, or the address is of a kind nobody can reach.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, AddressError> {
        let bits = bits(address);
        if prefix == 0 || prefix > bits {
            return Err(AddressError::Prefix(prefix.to_string(), bits));
        }
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            return Err(AddressError::Unreachable(address));
        }
        Ok(Self { address, prefix })
    }

    /// The address itself.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits name the network.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// True if `other` is in the same network.
    #[must_use]
    pub fn same_network(&self, other: IpAddr) -> bool {
        let high = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
            IpAddr::V6(v6) => u128::from(v6),
        };
        let shift = 128 - u32::from(self.prefix);
        self.address.is_ipv4() == other.is_ipv4() && high(self.address) >> shift == high(other) >> shift
    }
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for ServiceAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (address, prefix) =
            text.split_once('/').ok_or_else(|| AddressError::NoPrefix(text.to_owned()))?;
        let address: IpAddr = address.parse().map_err(|_| AddressError::Address(address.to_owned()))?;
        let prefix: u8 =
            prefix.parse().map_err(|_| AddressError::Prefix(prefix.to_owned(), bits(address)))?;
        Self::new(address, prefix)
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for ServiceAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ServiceAddress> for String {
    fn from(address: ServiceAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["10.0.0.50/24", "fd00::50/64", "10.0.0.1/32"] {
            assert_eq!(text.parse::<ServiceAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_service_address_is_refused() {
        for text in
            ["10.0.0.50", "10.0.0/24", "10.0.0.1/0", "10.0.0.1/33", "::1/64", "224.0.0.1/24", "0.0.0.0/8"]
        {
            assert!(text.parse::<ServiceAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_are_compared_by_their_prefix() {
        let v4: ServiceAddress = "10.0.0.50/25".parse().unwrap();
        assert!(v4.same_network("10.0.0.1".parse().unwrap()));
        assert!(!v4.same_network("10.0.0.129".parse().unwrap()));
        assert!(!v4.same_network("::a00:1".parse().unwrap()));
        let v6: ServiceAddress = "fd00::50/64".parse().unwrap();
        assert!(v6.same_network("fd00::1:2:3:4".parse().unwrap()));
        assert!(!v6.same_network("fd00:0:0:1::1".parse().unwrap()));
    }
}
