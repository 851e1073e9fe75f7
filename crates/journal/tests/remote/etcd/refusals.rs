//! What is said of a cluster that cannot be used, and who is let in.

use std::sync::Arc;

use unanimous_journal::{End, EtcdJournal, EtcdOptions, Journal, JournalError};

use super::private::{Cluster, open};
use crate::certificates::Authority;
use crate::history::{Client, finished, mint};
use crate::listener::Heard;
use crate::patience::free_port;

fn options(password: Option<&str>) -> EtcdOptions {
    EtcdOptions { password: password.map(str::to_owned), ..EtcdOptions::default() }
}

fn refused(url: &str, password: Option<&str>) -> String {
    match EtcdJournal::open(url, options(password), Arc::new(Heard::default())) {
        Err(JournalError::Unusable(line)) => {
            assert!(!line.contains('\n') && !line.contains("s3cret"), "{line}");
            println!("{line}");
            line
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("{url} opens"),
    }
}

fn assert_says(line: &str, named: &[&str]) {
    for word in named {
        assert!(line.contains(word), "{word:?} is not in {line}");
    }
}

#[test]
fn a_cluster_that_cannot_be_used_is_refused_with_one_line_that_says_what_to_do() {
    let nobody = format!("etcd://127.0.0.1:{}", free_port());
    assert_says(&refused(&nobody, None), &["Connection refused", "is it running"]);
    let Some(cluster) = Cluster::start(1, &[]) else { return };
    let with_user = cluster.url().replace("etcd://", "etcd://app@");
    assert_says(&refused(&with_user, Some("s3cret")), &["not enabled", "leave the user out"]);
    let encrypted = format!("{}?tls=on", cluster.url());
    assert_says(&refused(&encrypted, None), &["tls"]);
    cluster.ctl(&["put", "other/meta", "of somebody else"]);
    let other = format!("{}/other", cluster.url());
    assert_says(&refused(&other, None), &["of somebody else", "another prefix"]);
    cluster.ctl(&["put", "newer/meta", "layout 9 instance abc openings 1"]);
    let newer = format!("{}/newer", cluster.url());
    assert_says(&refused(&newer, None), &["version 9", "newer one"]);
}

#[test]
fn a_user_needs_its_password_and_rights_and_an_expired_login_is_renewed() {
    let Some(cluster) = Cluster::start(1, &["--auth-token-ttl", "1"]) else { return };
    for command in [
        "user add root:r00t",
        "user grant-role root root",
        "user add app:s3cret",
        "role add una",
        "user grant-role app una",
        "role grant-permission una --prefix=true readwrite unanimous/",
        "auth enable",
    ] {
        cluster.ctl(&command.split(' ').collect::<Vec<_>>());
    }
    let url = cluster.url();
    let app = url.replace("etcd://", "etcd://app@");
    assert_says(&refused(&url, None), &["user name is empty", "name a user"]);
    assert_says(&refused(&app, Some("wrong")), &["invalid user ID or password", "PASSWORD"]);
    let elsewhere = refused(&format!("{app}/else"), Some("s3cret"));
    assert_says(&elsewhere, &["permission denied", "grant-permission", "else/"]);

    let heard = Arc::new(Heard::default());
    let journal = EtcdJournal::open(&app, options(Some("s3cret")), Arc::clone(&heard) as _);
    let journal = journal.expect("it is let in");
    let client = Client::of(&journal);
    let txn = mint();
    heard.wait(client.decide(txn).expect("it is ours")).expect("it is let in");
    // Longer than a login lives, if nobody uses it: the reader's is not used.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let lsn = client.append(txn, 2, &finished(), End::Ended).expect("it is ours");
    heard.wait(lsn).expect("it is let in again");
    assert_eq!(journal.read(txn).expect("it is let in again").len(), 4);
}

#[test]
fn over_tls_only_the_host_in_the_url_gets_anything() {
    let authority = Authority::new();
    let server = authority.certify("server", "127.0.0.1");
    let client = authority.certify("client", "coordinator");
    let (certificate, key, ca) = (server.certificate, server.key, authority.ca());
    let settings = ["--cert-file", &certificate, "--key-file", &key].map(str::to_owned);
    let settings =
        [format!("{}={}", settings[0], settings[1]), settings[2].clone(), settings[3].clone()];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let Some(cluster) = Cluster::start(1, &settings) else { return };
    let trusted = format!("{}?tls=on&ca_file={ca}", cluster.url());
    let heard = Arc::new(Heard::default());
    let journal = open(&trusted, Arc::clone(&heard) as _);
    heard.wait(Client::of(&journal).whole(mint()).expect("it is ours")).expect("it is there");
    let with_client = trusted.clone() + &client.params();
    drop(open(&with_client, Arc::new(Heard::default())));
    let untrusted = format!("{}?tls=on", cluster.url());
    assert_says(&refused(&untrusted, None), &["tls", "ca_file"]);
    let other_name = trusted.replace("127.0.0.1", "localhost");
    assert_says(&refused(&other_name, None), &["tls", "for the host"]);
    let missing = format!("{}?tls=on&ca_file={}", cluster.url(), authority.file("nothing"));
    assert_says(&refused(&missing, None), &["ca_file", "No such file"]);
}
