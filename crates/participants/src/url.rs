//! The configured URL of a database, in parts: `scheme://user@host:port/path?name=value&…`.
//!
//! A password is never in it. What is wrong is said for the one who configured it.

/// The parts, percent encoding undone; parameters as they are written.
#[derive(Debug)]
pub(crate) struct Url<'a> {
    pub(crate) scheme: &'a str,
    pub(crate) user: Option<String>,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) path: String,
    pub(crate) params: Vec<(&'a str, &'a str)>,
}

impl<'a> Url<'a> {
    pub(crate) fn parse(url: &'a str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("its url has no scheme")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (user, host),
            None => ("", authority),
        };
        if user.contains(':') {
            return Err(
                "its url must not carry a password: use password_env or password_file".to_owned()
            );
        }
        let (host, port) = host_and_port(host)?;
        let user = Some(decoded(user)?).filter(|user| !user.is_empty());
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let params = pairs.map(|pair| {
            let split = pair.split_once('=');
            split.ok_or_else(|| format!("its url has a parameter without a value: {pair:?}"))
        });
        let (path, params) = (decoded(path)?, params.collect::<Result<_, _>>()?);
        Ok(Self { scheme, user, host, port, path, params })
    }
}

/// A host and its port as they stand in a URL.
pub(crate) fn shown(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// The value of the parameter `connections`.
pub(crate) fn connections(number: &str, most: usize) -> Result<usize, String> {
    match number.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(format!("connections={number} in its url is not within 1 to {most}")),
    }
}

/// A value of the parameter `sslmode` that would encrypt, and trust anybody.
pub(crate) fn unchecked(mode: &str) -> String {
    format!(
        "sslmode={mode} in its url does not check who answers: use verify-full, with ca_file if the \
         server's certificate is your own, or disable"
    )
}

/// A parameter that the resource does not have.
pub(crate) fn unknown(name: &str, known: &str) -> String {
    format!("its url has an unknown parameter {name:?}; known: {known}")
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    // An IPv6 address has colons of its own, and stands in brackets.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    let number =
        |port: &str| port.parse().map_err(|_| format!("its url has a wrong port {port:?}"));
    let port = port.map(number).transpose()?;
    Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// Undoes percent encoding.
pub(crate) fn decoded(text: &str) -> Result<String, String> {
    let wrong =
        || "its url has a percent sign that two hexadecimal digits do not follow".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|it| char::from(it).to_digit(16)).ok_or_else(wrong);
        bytes.push((digit()? * 16 + digit()?) as u8);
    }
    String::from_utf8(bytes).map_err(|_| "its url is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_found_and_decoded() {
        let all = Url::parse("x://a%40b@[::1]:7/w%20x?one=1&two=%32").expect("a good url");
        assert_eq!((all.scheme, all.user.as_deref()), ("x", Some("a@b")));
        assert_eq!((&*all.host, all.port, &*all.path), ("::1", Some(7), "w x"));
        assert_eq!(all.params, [("one", "1"), ("two", "%32")]);
        let least = Url::parse("x://host").expect("a good url");
        assert_eq!((least.user, &*least.host, least.port), (None, "host", None));
        assert!(least.path.is_empty() && least.params.is_empty());
    }

    #[test]
    fn what_cannot_be_followed_is_named_and_no_password_is_repeated() {
        for (url, named) in [
            ("host", "no scheme"),
            ("x://a:secret@b", "password_env"),
            ("x://:secret@b", "password_env"),
            ("x://a:port", "port"),
            ("x://a?b", "without a value"),
            ("x://a/%zz", "percent"),
            ("x://%ff@a", "UTF-8"),
        ] {
            let why = Url::parse(url).expect_err(url);
            assert!(why.contains(named) && !why.contains("secret"), "{url}: {why}");
        }
    }

    #[test]
    fn an_address_with_colons_is_shown_in_brackets() {
        assert_eq!((&*shown("::1", 5), &*shown("db", 5)), ("[::1]:5", "db:5"));
    }
}
