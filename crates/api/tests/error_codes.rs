//! The table of error codes for readers is the one that programs get.
//!
//! Run with `UPDATE_DOCS=1` to write it anew.

use std::fmt::Write;
use std::path::Path;

use unanimous_api::{Code, Repeat};

const INTRODUCTION: &str = "\
# Error codes

Every reply of the HTTP interface that is not a success is a problem document (RFC 9457,
`application/problem+json`) with one of these codes. A code is one thing that the caller can do; it
never changes its meaning. `GET /errors/{code}` of a running coordinator says the same.

```json
{
  \"type\": \"/errors/UNA0104\",
  \"code\": \"UNA0104\",
  \"title\": \"the resource is not configured\",
  \"detail\": \"no resource \\\"wallt\\\" is configured; configured: ledger, wallet\",
  \"remedy\": \"add it to the configuration, or use one of those that GET /v1/resources lists\",
  \"pointer\": \"/branches/0/resource\"
}
```

`pointer` is a JSON pointer (RFC 6901) to the field at fault. If the problem is about a transaction,
that transaction's fields stand beside these; `status` is then the transaction's. Codes marked with
*later* come with `Retry-After`: the same request may succeed when it is repeated.

| code | HTTP | what happened | what to do |
|---|---|---|---|
";

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for info in Code::ALL.map(Code::info) {
        let later = match info.repeat {
            Repeat::Later => " *later*",
            Repeat::Useless => "",
        };
        let (code, http, title, remedy) = (info.code, info.http, info.title, info.remedy);
        writeln!(page, "| {code} | {http}{later} | {title} | {remedy} |").expect("a string");
    }
    page
}

#[test]
fn the_table_for_readers_is_the_table_for_programs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/error-codes.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).expect("docs can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "docs/error-codes.md is stale: run with UPDATE_DOCS=1");
}
