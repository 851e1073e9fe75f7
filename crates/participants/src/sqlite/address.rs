//! Where a file is: the configured URL, `sqlite:PATH`.
//!
//! The path is as written, from where the coordinator was started if it is not absolute. A file has no
//! password and no TLS.

use std::path::{Path, PathBuf};

use crate::open::Settings;

/// The absolute path that `url` names.
///
/// # Errors
///
/// What is wrong with the configuration, for the one who wrote it.
pub(super) fn parse(url: &str, settings: &Settings) -> Result<PathBuf, String> {
    let rest = url.strip_prefix("sqlite:").unwrap_or(url);
    // As others write it: `sqlite:///srv/shop.db`.
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() || path.ends_with('/') {
        return Err("its url names no file; write it as sqlite:/srv/shop.db".to_owned());
    }
    if path.starts_with(":memory:") || path.contains('?') {
        return Err(format!("its url names {path:?}, which is no file: write sqlite:/srv/shop.db"));
    }
    if settings.password.is_some() {
        return Err("a file has no password: remove it".to_owned());
    }
    settings.tls.refuse_unused("remove them: a file is on this machine")?;
    std::path::absolute(Path::new(path)).map_err(|error| format!("its url names {path:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::Password;

    #[test]
    fn a_path_is_taken_as_it_is_written() {
        for (url, path) in [
            ("sqlite:/srv/a b%20c.db", "/srv/a b%20c.db"),
            ("sqlite:///srv/shop.db", "/srv/shop.db"),
            ("sqlite:/srv/./shop.db", "/srv/shop.db"),
        ] {
            assert_eq!(parse(url, &Settings::default()), Ok(PathBuf::from(path)), "{url}");
        }
        let relative = parse("sqlite:shop.db", &Settings::default()).expect("a path");
        assert!(relative.is_absolute() && relative.ends_with("shop.db"));
    }

    #[test]
    fn what_is_no_file_is_named() {
        for url in ["sqlite:", "sqlite:///", "sqlite::memory:", "sqlite:a.db?mode=ro"] {
            assert!(
                parse(url, &Settings::default()).is_err_and(|why| why.contains("its url")),
                "{url}"
            );
        }
        let password = Some(Password::new("secret".to_owned()));
        let settings = Settings { password, ..Settings::default() };
        let why = parse("sqlite:a.db", &settings).expect_err("a password");
        assert!(why.contains("no password") && !why.contains("secret"));
    }
}
