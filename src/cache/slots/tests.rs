//! The grants and the evictions of slots.

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
const AT_ONCE: Duration = Duration::from_millis(1);

fn named(name: &str) -> Party {
    Party::Named(name.into())
}

/// Takes slots until none is free.
async fn take_all(slots: &FetchSlots, class: Class, party: &Party) -> Vec<FetchSlot> {
    let mut taken = Vec::new();
    while let Some(slot) = slots.take(class, party, Priority::Client, AT_ONCE).await {
        taken.push(slot);
    }
    taken
}

/// Takes all common slots for numbered registries, and then the own slots of all `others`.
async fn take_every_slot(slots: &FetchSlots, class: Class, others: &[&str]) -> Vec<FetchSlot> {
    let mut taken = Vec::new();
    for n in 0..20 {
        taken.extend(take_all(slots, class, &named(&n.to_string())).await);
    }
    assert_eq!(slots.pool(class).free(), 0);
    for other in others {
        let own = take_all(slots, class, &named(other)).await;
        assert!(!own.is_empty());
        taken.extend(own);
    }
    taken
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn one_registry_or_class_leaves_slots_to_the_others() {
    run(async {
        let slots = FetchSlots::new(u64::MAX);
        let held = take_all(&slots, Class::Blob, &named("busy")).await;
        assert_eq!(
            held.len() as u64,
            BLOB_FETCHES_MAX as u64 / 2 + RESERVED_FETCHES_MAX
        );
        assert!(
            slots
                .take(Class::Blob, &named("other"), Priority::Client, AT_ONCE)
                .await
                .is_some()
        );
        assert!(
            slots
                .take(Class::Manifest, &named("busy"), Priority::Client, AT_ONCE)
                .await
                .is_some()
        );
    });
}

#[test]
fn a_registry_with_an_entry_has_slots_when_all_others_take_what_they_can() {
    run(async {
        let slots = FetchSlots::new(u64::MAX);
        let mut held = Vec::new();
        for n in 0..300 {
            held.extend(take_all(&slots, Class::Blob, &named(&n.to_string())).await);
        }
        assert_eq!(slots.pool(Class::Blob).free(), 0);
        assert!(
            slots
                .take(Class::Blob, &named("other"), Priority::Client, AT_ONCE)
                .await
                .is_some()
        );
        // Each of the 300 registries has its first own slot. Further own slots are limited.
        let most = BLOB_FETCHES_MAX as u64 + RESERVED_FETCHES_TOTAL_MAX + 300;
        assert!(held.len() as u64 <= most, "{}", held.len());
        held.clear();
        assert!(slots.pool(Class::Blob).own.is_empty());
    });
}

#[test]
fn registries_without_an_entry_have_no_slots_of_their_own() {
    run(async {
        let slots = FetchSlots::new(u64::MAX);
        let mut held = Vec::new();
        for n in 0..300 {
            let party = Party::Unproven(format!("r{n}.example").parse().unwrap());
            held.extend(take_all(&slots, Class::Blob, &party).await);
        }
        assert_eq!(held.len(), BLOB_FETCHES_MAX / 4);
    });
}

#[test]
fn fetches_leave_descriptors_to_connections_and_files() {
    run(async {
        for descriptors in [0, 256, 600, 1_024, 4_096, 20_000, u64::MAX] {
            let slots = FetchSlots::new(descriptors);
            let size = |class| slots.pool(class).size;
            let (blobs, manifests) = (size(Class::Blob), size(Class::Manifest));
            let all = 2 * blobs + manifests + size(Class::Background);
            let content = descriptors.saturating_sub(DESCRIPTORS_RESERVED as u64) / 5;
            assert!(all <= content.max(4 * FETCHES_MIN), "{descriptors}");
            let busy = take_all(&slots, Class::Blob, &named("busy")).await;
            let together: u64 = slots.pool(Class::Blob).own.values().sum();
            assert!(busy.len() as u64 <= blobs.div_ceil(2) + together && together <= RESERVED_FETCHES_MAX);
            assert!(
                slots
                    .take(Class::Blob, &named("other"), Priority::Client, AT_ONCE)
                    .await
                    .is_some()
            );
        }
        let size = |class| FetchSlots::new(20_000).pool(class).size as usize;
        assert_eq!(
            [Class::Blob, Class::Manifest, Class::Background].map(size),
            [BLOB_FETCHES_MAX, MANIFEST_FETCHES_MAX, BACKGROUND_FETCHES_MAX]
        );
    });
}

#[test]
fn an_own_slot_that_is_released_frees_a_common_one() {
    run(async {
        let slots = FetchSlots::new(u64::MAX);
        let mut held = take_all(&slots, Class::Blob, &named("a")).await;
        let free = slots.pool(Class::Blob).free();
        held.remove(0);
        assert_eq!(slots.pool(Class::Blob).free(), free + 1);
        held.clear();
        let pool = slots.pool(Class::Blob);
        assert!(pool.own.is_empty() && pool.free() == BLOB_FETCHES_MAX as u64);
    });
}

#[test]
fn a_released_slot_goes_to_a_waiting_fetch_and_registries_take_turns() {
    run(async {
        let slots = FetchSlots::new(u64::MAX);
        let mut held = take_every_slot(&slots, Class::Manifest, &["x", "y"]).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let wait = |party: &'static str| {
            let (slots, order) = (slots.clone(), order.clone());
            tokio::spawn(async move {
                let slot = slots
                    .take(Class::Manifest, &named(party), Priority::Client, PATIENCE)
                    .await;
                order.lock().push(party);
                slot
            })
        };
        let mut waiting = Vec::new();
        for party in ["x", "x", "x", "y"] {
            let before = slots.pool(Class::Manifest).count;
            waiting.push(wait(party));
            while slots.pool(Class::Manifest).count == before {
                tokio::task::yield_now().await;
            }
        }
        held.drain(..8);
        for task in waiting {
            assert!(task.await.unwrap().is_some());
        }
        assert_eq!(*order.lock(), ["x", "y", "x", "x"]);
    });
}

#[test]
fn a_fetch_that_leaves_the_queue_takes_no_slot() {
    run(async {
        let slots = FetchSlots::new(u64::MAX);
        let held = take_all(&slots, Class::Blob, &named("a")).await;
        assert!(
            slots
                .take(Class::Blob, &named("a"), Priority::Client, AT_ONCE)
                .await
                .is_none()
        );
        {
            let pool = slots.pool(Class::Blob);
            assert_eq!((pool.count, pool.turns.len(), pool.waiting.len()), (0, 0, 0));
        }
        drop(held);
        let pool = slots.pool(Class::Blob);
        assert!(pool.held.is_empty());
        assert_eq!(pool.free(), BLOB_FETCHES_MAX as u64);
    });
}

#[test]
fn a_fetch_no_client_waits_for_loses_its_slot_and_the_slowest_first() {
    run(async {
        let slots = FetchSlots::new(u64::MAX);
        let mut held = take_all(&slots, Class::Blob, &named("a")).await;
        held[3].record_progress(Priority::Client, true, false, 500);
        held[5].record_progress(Priority::Client, true, false, 100);
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move {
                slots
                    .take(Class::Blob, &named("a"), Priority::Client, PATIENCE)
                    .await
            }
        });
        held[5].evicted().await;
        assert!(
            !held[3].standing.evicted.load(Ordering::Relaxed),
            "one fetch is evicted"
        );
        held.remove(5);
        assert!(waiting.await.unwrap().is_some());
    });
}

#[test]
fn a_slow_fetch_of_a_registry_that_holds_more_gives_way_when_all_slots_are_taken() {
    run(async {
        let slots = FetchSlots::new(u64::MAX);
        let mut held = take_every_slot(&slots, Class::Blob, &["other"]).await;
        held[7].record_progress(Priority::Client, false, true, 1);
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move {
                slots
                    .take(Class::Blob, &named("other"), Priority::Client, PATIENCE)
                    .await
            }
        });
        held[7].evicted().await;
        held.remove(7);
        assert!(waiting.await.unwrap().is_some());
    });
}

#[test]
fn a_slow_fetch_of_a_registry_without_an_entry_gives_way_when_their_bound_is_reached() {
    run(async {
        let slots = FetchSlots::new(u64::MAX);
        let party = |n: usize| Party::Unproven(format!("r{n}.example").parse().unwrap());
        let mut held = Vec::new();
        for n in 0..100 {
            held.extend(
                slots
                    .take(Class::Blob, &party(n), Priority::Client, AT_ONCE)
                    .await,
            );
        }
        held[7].record_progress(Priority::Client, false, true, 1);
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move {
                slots
                    .take(Class::Blob, &party(2_000), Priority::Client, PATIENCE)
                    .await
            }
        });
        held[7].evicted().await;
        held.remove(7);
        assert!(waiting.await.unwrap().is_some());
    });
}

#[test]
fn background_fetches_leave_a_reserve_that_grows_with_each_lower_priority() {
    run(async {
        let slots = FetchSlots::new(u64::MAX);
        let mut held = Vec::new();
        let mut free = Vec::new();
        for priority in [Priority::Prefetch, Priority::Warm, Priority::Load] {
            for n in 0..20 {
                let party = named(&n.to_string());
                while let Some(slot) = slots.take(Class::Blob, &party, priority, PATIENCE).await {
                    held.push(slot);
                }
            }
            assert!(!slots.has_spare(Class::Blob, &named("other"), priority));
            free.push(slots.pool(Class::Blob).free());
        }
        let size = BLOB_FETCHES_MAX as u64;
        assert_eq!(free, [size / 2, size / 4 + size / 8, size / 4]);
        assert!(
            slots.pool(Class::Blob).own.is_empty(),
            "own slots are for clients"
        );
        assert!(
            slots
                .take(Class::Blob, &named("0"), Priority::Client, AT_ONCE)
                .await
                .is_some()
        );
    });
}

#[test]
fn waiting_client_displaces_the_background_fetch_of_the_lowest_priority() {
    run(async {
        let slots = FetchSlots::new(u64::MAX);
        let background = async |priority| {
            let slot = slots.take(Class::Blob, &named("a"), priority, AT_ONCE).await;
            slot.expect("the slots are free")
        };
        let load = background(Priority::Load).await;
        let warm = background(Priority::Warm).await;
        let raised = background(Priority::Prefetch).await;
        let prefetch = background(Priority::Prefetch).await;
        // A client has joined the fetch.
        raised.standing().raise(Priority::Client);
        let _clients = take_every_slot(&slots, Class::Blob, &["a", "b", "c", "d"]).await;
        assert!(!slots.has_spare(Class::Blob, &named("a"), Priority::Load));
        let wait = |party: &'static str| {
            let slots = slots.clone();
            tokio::spawn(async move {
                slots
                    .take(Class::Blob, &named(party), Priority::Client, PATIENCE)
                    .await
            })
        };
        let mut granted = Vec::new();
        for (party, displaced) in [("b", prefetch), ("c", warm), ("d", load)] {
            let waiting = wait(party);
            displaced.evicted().await;
            drop(displaced);
            granted.push(waiting.await.unwrap().expect("the background fetch gave way"));
        }
        assert!(!raised.standing.evicted.load(Ordering::Relaxed));
    });
}
