//! The read-back: what somebody else did to znodes, and orphans.

use super::*;

/// Long enough for several passes over all buckets, of which each takes four seconds.
const PASSES: Duration = Duration::from_secs(24);

/// Ids of one agent.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("db:{n}")).collect()
}

/// A term over the statuses of instances that the fleet does not know.
async fn over_unknown(count: usize) -> Rig {
    let names = names(count);
    let held: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), stored(name, Reason::Ok)))
        .collect();
    Rig::over(&held).await
}

async fn published(rig: &Rig) -> usize {
    let mut published = 0;
    for name in names(30) {
        let path = rig.layout.instance(&id(&name));
        published += usize::from(rig.node(&path).await.is_some());
    }
    published
}

fn repairs(rig: &Rig, kind: &'static str) -> u64 {
    rig.metrics.repairs.get_or_create(&[("kind", kind)]).get()
}

#[tokio::test(start_paused = true)]
async fn an_edited_znode_is_written_anew_within_five_seconds() {
    let mut rig = Rig::live().await;
    for (n, data) in [stored("db:1", Reason::Loading), b"nonsense".to_vec()]
        .into_iter()
        .enumerate()
    {
        rig.edit("db:1", &data).await;
        let start = Instant::now();
        rig.until_reason("db:1", Some("OK")).await;
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(repairs(&rig, "edited"), n as u64 + 1);
    }
    assert_eq!(rig.bucket("db:1", "count").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_znode_is_created_anew_with_a_higher_revision() {
    let mut rig = Rig::live().await;
    let generation = rig.bucket("db:1", "gen").await;
    rig.delete(&rig.layout.instance(&id("db:1"))).await;
    rig.until_reason("db:1", Some("OK")).await;
    assert_eq!(repairs(&rig, "deleted"), 1);
    assert_eq!(rig.field("db:1", "rev").await, Some(2.into()));
    assert!(rig.bucket("db:1", "gen").await > generation);
    assert_eq!(rig.bucket("db:1", "count").await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_edited_bucket_is_written_anew_and_its_generation_grows_on() {
    let mut rig = Rig::live().await;
    let bucket = rig.layout.bucket(id("db:1").bucket());
    set(&rig.hand, &bucket, br#"{"gen":500,"count":77}"#).await;
    rig.until("repaired", async |rig| rig.bucket("db:1", "count").await == 1)
        .await;
    assert!(rig.bucket("db:1", "gen").await > 500);
    assert_eq!(repairs(&rig, "bucket"), 1);
    assert_eq!(rig.field("db:1", "rev").await, Some(1.into()), "it was right");
}

#[tokio::test(start_paused = true)]
async fn a_status_of_somebody_else_is_handed_to_the_fleet_without_grace() {
    let mut rig = Rig::live().await;
    let before = rig.adopted().len();
    plant(&rig.hand, &rig.layout, "db:7", &stored("db:7", Reason::Loading)).await;
    plant(&rig.hand, &rig.layout, "db:8", b"nonsense").await;
    rig.until("both are found", async |rig| repairs(rig, "foreign") == 2)
        .await;
    rig.run_for(Duration::from_millis(1)).await;
    assert_eq!(rig.adopted()[before..], [(vec!["db:7".to_owned()], false)]);
    assert_eq!(rig.reason("db:7").await.as_deref(), Some("LOADING"), "it stays");
    // If the fleet knows the instance, its status counts.
    rig.put("db:7", Reason::Ok);
    rig.until_reason("db:7", Some("OK")).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_right_is_not_written_again() {
    let mut rig = Rig::live().await;
    rig.store.take_multis();
    rig.run_for(Duration::from_secs(30)).await;
    let publisher = rig.layout.publisher();
    let mut multis = rig.store.take_multis();
    multis.retain(|multi| multi.writes.iter().any(|write| write.path() != publisher));
    assert_eq!(multis, []);
}

#[tokio::test(start_paused = true)]
async fn an_orphan_is_deleted_in_the_third_pass_and_not_before_ten_seconds() {
    let mut rig = over_unknown(5).await;
    rig.put_agent(true, false);
    rig.until_live().await;
    rig.run_for(Duration::from_secs(8)).await;
    assert_eq!((published(&rig).await, rig.metrics.orphans.get()), (5, 5));
    rig.until("deleted", async |rig| published(rig).await == 0).await;
    assert_eq!(repairs(&rig, "orphan"), 5);
}

#[tokio::test(start_paused = true)]
async fn without_its_agents_word_a_status_is_no_orphan() {
    for agent in [None, Some((false, false)), Some((true, true))] {
        let mut rig = over_unknown(1).await;
        if let Some((complete, silent)) = agent {
            rig.put_agent(complete, silent);
        }
        rig.until_live().await;
        rig.run_for(PASSES).await;
        assert_eq!((published(&rig).await, rig.metrics.orphans.get()), (1, 0));
    }
}

/// More than a tenth, and more than ten: somebody's mistake.
#[tokio::test(start_paused = true)]
async fn too_many_orphans_are_kept() {
    let mut rig = over_unknown(30).await;
    rig.put_agent(true, false);
    rig.until_live().await;
    // The first ten are found before there are too many, and are not yet due.
    rig.run_for(PASSES).await;
    assert_eq!((published(&rig).await, rig.metrics.orphans.get()), (30, 30));
    // The mistake is mended: they are known again.
    for name in &names(30)[5..] {
        rig.put(name, Reason::Ok);
    }
    rig.until("only the rest is deleted", async |rig| published(rig).await == 25)
        .await;
    rig.run_for(PASSES).await;
    assert_eq!((published(&rig).await, rig.metrics.orphans.get()), (25, 0));
}

#[tokio::test(start_paused = true)]
async fn a_read_back_that_fails_is_told_to_the_election() {
    let mut rig = Rig::live().await;
    let unknown = StoreError::Unknown("planned".to_owned());
    rig.store.plan_fault(Call::Children, Fault::Fails(unknown));
    assert_eq!(rig.told().await, Input::Unknown);
    rig.term.resume();
    rig.edit("db:1", b"nonsense").await;
    rig.until_reason("db:1", Some("OK")).await;
}

/// At most 2,500 znodes are read in a second: 625 in one bucket add a quarter of a second to a pass of four.
#[tokio::test(start_paused = true)]
async fn a_large_fleet_is_read_back_more_slowly() {
    let mut rig = Rig::live().await;
    let bucket = id("db:1").bucket();
    let crowd = (0..).map(|n| format!("crowd:{n}"));
    for name in crowd.filter(|name| id(name).bucket() == bucket).take(625) {
        rig.put(&name, Reason::Ok);
    }
    rig.until("all are published", async |rig| {
        rig.bucket("db:1", "count").await == 626
    })
    .await;
    let mut repaired = Vec::new();
    for _ in 0..2 {
        rig.edit("db:1", b"nonsense").await;
        rig.until_reason("db:1", Some("OK")).await;
        repaired.push(Instant::now());
    }
    let pass = repaired[1] - repaired[0];
    assert!(pass > Duration::from_millis(4_200), "{pass:?}");
}
