//! Encodes the events of `tracing`.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::encoder::{Format, Line, is_token};
use super::time::unix_millis;

/// The field that `tracing` uses for the phrase of an event.
const MESSAGE: &str = "message";

/// Writes each event as a line, without the fields of spans.
pub(super) struct EventLines(pub Format);

impl<S, N> FormatEvent<S, N> for EventLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut phrase = Phrase(String::new());
        event.record(&mut phrase);
        let mut text = Vec::new();
        let level = *event.metadata().level();
        let mut fields = Fields(Line::begin(&mut text, self.0, unix_millis(), level, &phrase.0));
        event.record(&mut fields);
        fields.0.end();
        writer.write_str(&String::from_utf8_lossy(&text))
    }
}

/// Finds the phrase, which is the first field of a line.
struct Phrase(String);

impl Visit for Phrase {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == MESSAGE {
            self.0 = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            value.clone_into(&mut self.0);
        }
    }
}

/// Returns the name of a field. Names in this crate are tokens, and names in other crates may be any
/// text.
fn key(field: &Field) -> &'static str {
    if is_token(field.name()) {
        field.name()
    } else {
        "field"
    }
}

/// Adds all other fields to the line.
struct Fields<'a>(Line<'a>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != MESSAGE {
            self.0.text(key(field), value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(key(field), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.signed(key(field), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.flag(key(field), value);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;
    use crate::sync::Mutex;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the line of the events in `log`, without the time.
    fn line(format: Format, log: impl FnOnce()) -> String {
        let memory = Memory::default();
        let out = memory.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(EventLines(format))
            .with_writer(move || out.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(memory.0.lock().clone()).unwrap();
        let at = text.find("level").unwrap();
        text[at..].to_owned()
    }

    #[test]
    fn phrase_is_first_and_fields_keep_order_and_type() {
        let log = || {
            let error = io::Error::other("broken \"pipe\"\n");
            let absent = None::<u64>;
            tracing::warn!(limit = 7_u64, delta = -1, on = true, absent, path = ?"a b", %error, "limit {}", "reached");
        };
        assert_eq!(
            line(Format::Text, log),
            "level=warn msg=\"limit reached\" limit=7 delta=-1 on=true path=\"\\\"a b\\\"\" error=\"broken \\\"pipe\\\"\\n\"\n"
        );
        assert_eq!(
            line(Format::Json, log),
            "level\":\"warn\",\"msg\":\"limit reached\",\"limit\":7,\"delta\":-1,\"on\":true,\
             \"path\":\"\\\"a b\\\"\",\"error\":\"broken \\\"pipe\\\"\\n\"}\n"
        );
    }

    #[test]
    fn field_name_that_is_no_token_is_replaced() {
        let log = || tracing::info!("a b=\"" = 1_u64, "phrase");
        assert_eq!(line(Format::Text, log), "level=info msg=phrase field=1\n");
    }

    #[test]
    fn fields_of_spans_are_not_written() {
        let log = || {
            let _entered = tracing::error_span!("outer", secret = "s").entered();
            tracing::error!("inner");
        };
        assert_eq!(line(Format::Text, log), "level=error msg=inner\n");
    }
}
