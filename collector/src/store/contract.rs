//! The tests that every store must pass. The in-memory store stands for the real server only because it passes the same
//! suite.

use std::{sync::Arc, time::Duration};

use super::{CommitError, Connection, Kind, Session, Store, StoreError, Write};

async fn soon<T>(future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("did not happen within 20 s"),
    }
}

/// Runs all tests below `root`, which must not exist.
///
/// # Panics
/// If the store violates the contract.
#[allow(clippy::unwrap_used)] // A test.
pub async fn run<S: Store>(store: &S, root: &str) {
    let at = |name: &str| format!("{root}/{name}");
    let (a, b) = (
        Arc::new(store.connect().await.unwrap()),
        Arc::new(store.connect().await.unwrap()),
    );
    assert_ne!(a.id(), b.id());
    assert_eq!(a.connection(), Connection::Connected);
    assert!(a.timeout() > Duration::ZERO);

    // Creation, and what it refuses.
    assert_eq!(a.create(root, b"", Kind::Persistent).await.unwrap(), root);
    assert_eq!(
        a.create(root, b"", Kind::Persistent).await,
        Err(StoreError::Exists)
    );
    assert_eq!(
        a.create(&at("no/parent"), b"", Kind::Persistent).await,
        Err(StoreError::Missing)
    );
    a.create(&at("p"), b"one", Kind::Persistent).await.unwrap();
    a.create(&at("e"), b"", Kind::Ephemeral).await.unwrap();
    assert!(matches!(
        a.create(&at("e/child"), b"", Kind::Persistent).await,
        Err(StoreError::Refused(_))
    ));

    // One request reads znodes that exist and one that does not.
    let nodes = b.get(&[at("p"), at("none"), at("e")]).await.unwrap();
    assert_eq!(
        nodes[0].as_ref().map(|n| (n.data.as_slice(), n.version, n.owner)),
        Some((b"one".as_slice(), 0, 0))
    );
    assert_eq!(nodes[1], None);
    assert_eq!(nodes[2].as_ref().unwrap().owner, a.id());
    assert!(nodes.iter().flatten().all(|node| node.readable));
    let owner = async |name: &str| b.stat(&at(name)).await.unwrap().map(|stat| stat.owner);
    assert_eq!(owner("p").await, Some(0));
    assert_eq!(owner("e").await, Some(a.id()));
    assert_eq!(owner("none").await, None);
    let mut children = b.children(root).await.unwrap();
    children.sort();
    assert_eq!(children, ["e", "p"]);
    assert_eq!(b.children(&at("none")).await, Err(StoreError::Missing));

    // Sequential names count up and belong to their session.
    a.create(&at("q"), b"", Kind::Persistent).await.unwrap();
    let first = a
        .create(&at("q/n-"), b"", Kind::EphemeralSequential)
        .await
        .unwrap();
    let second = b
        .create(&at("q/n-"), b"", Kind::EphemeralSequential)
        .await
        .unwrap();
    assert!(
        first < second && first.ends_with("0000000000"),
        "{first} {second}"
    );

    // A multi is applied whole or not at all, and only while the check holds.
    let set = |text: &str| Write::Set(at("p"), text.as_bytes().to_vec(), None);
    a.commit(
        (&at("p"), 0),
        vec![set("two"), Write::Create(at("m"), b"x".to_vec(), false)],
    )
    .await
    .unwrap();
    assert_eq!(
        b.commit((&at("p"), 0), vec![set("late")]).await,
        Err(CommitError::Fenced)
    );
    assert_eq!(
        b.commit((&at("none"), 0), vec![set("late")]).await,
        Err(CommitError::Fenced)
    );
    let refused = b
        .commit(
            (&at("p"), 1),
            vec![set("half"), Write::Create(at("m"), vec![], false)],
        )
        .await;
    assert_eq!(refused, Err(CommitError::Operation(1, StoreError::Exists)));
    let refused = b
        .commit((&at("p"), 1), vec![set("half"), Write::Delete(at("none"))])
        .await;
    assert_eq!(refused, Err(CommitError::Operation(1, StoreError::Missing)));
    let versioned = Write::Set(at("m"), vec![], Some(7));
    let refused = b.commit((&at("p"), 1), vec![versioned]).await;
    assert!(
        matches!(refused, Err(CommitError::Operation(0, StoreError::Refused(_)))),
        "{refused:?}"
    );
    b.sync(root).await.unwrap();
    assert_eq!(b.stat(&at("p")).await.unwrap().map(|stat| stat.version), Some(1));
    let node = b.get(&[at("p")]).await.unwrap().remove(0).unwrap();
    assert_eq!((node.data.as_slice(), node.version), (b"two".as_slice(), 1));

    // One-shot watches: on data, on deletion, on a znode that does not exist.
    let changed = b.watch(&at("p")).await.unwrap().unwrap();
    a.commit((&at("p"), 1), vec![set("three")]).await.unwrap();
    soon(changed).await;
    let deleted = b.watch(&at("m")).await.unwrap().unwrap();
    a.commit((&at("p"), 2), vec![Write::Delete(at("m"))])
        .await
        .unwrap();
    soon(deleted).await;
    assert!(b.watch(&at("m")).await.unwrap().is_none());

    // An ephemeral znode in a multi; the end of a session deletes its znodes.
    a.commit((&at("p"), 2), vec![Write::Create(at("f"), vec![], true)])
        .await
        .unwrap();
    let gone = b.watch(&at("f")).await.unwrap().unwrap();
    S::Session::close(a).await;
    soon(gone).await;
    let mut children = b.children(root).await.unwrap();
    children.sort();
    assert_eq!(children, ["p", "q"]);
}
