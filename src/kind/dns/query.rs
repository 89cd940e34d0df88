//! The question, and the message that asks it.

use domain::base::iana::{Class, Rtype};
use domain::base::message_builder::{AdditionalBuilder, MessageBuilder, PushError};
use domain::base::name::{Name, ParsedName};
use domain::base::wire::ParseError;
use domain::dep::octseq::Parser;

use super::Edns;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DnsQuestion {
    pub(super) name: Name<Vec<u8>>,
    pub(super) number: u16,
    pub(super) class: u16,
}

impl DnsQuestion {
    /// The message that asks it.
    pub(super) fn message(&self, id: u16, recursion_desired: bool, edns: Option<Edns>) -> Result<Vec<u8>, PushError> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(id);
        builder.header_mut().set_rd(recursion_desired);
        let mut questions = builder.question();
        questions.push((&self.name, Rtype::from_int(self.number), Class::from_int(self.class)))?;
        let mut additional: AdditionalBuilder<Vec<u8>> = questions.additional();
        if let Some(edns) = edns {
            additional.opt(|opt| {
                opt.set_udp_payload_size(edns.buffer_size);
                opt.set_dnssec_ok(edns.r#do);
                Ok(())
            })?;
        }
        Ok(additional.finish())
    }

    /// Whether the question at the position of the parser is this one. Upper and lower case are the same.
    pub(super) fn is_asked(&self, parser: &mut Parser<'_, [u8]>) -> Result<bool, ParseError> {
        let name = ParsedName::parse_ref(parser)?;
        let number = parser.parse_u16_be()?;
        let class = parser.parse_u16_be()?;
        Ok(name == self.name && number == self.number && class == self.class)
    }
}

/// A number for a message that nobody can guess: whoever could, could answer in the server's place.
pub(super) fn random_id() -> u16 {
    let mut bytes = [0; 2];
    // It fails only where the system has no source of random numbers, and TLS would not work either.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u16::from_be_bytes(bytes)
}
