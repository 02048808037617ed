//! Further test cases for several machines with the same place.

use super::cases::{expect, expect_only, put, put_as, sidecars};
use super::sample::{blob, content, manifest, meta, pointer, record, record_of, source, tag};
use super::{SharedPlace, Shelf};
use crate::store::RecordName;

/// Number of machines.
const MACHINES: usize = 4;

async fn machines<P: SharedPlace>(place: &P) -> Vec<P::Shelf> {
    let mut machines = vec![place.open().await];
    for _ in 1..MACHINES {
        machines.push(place.machine().await);
    }
    machines
}

pub(crate) async fn what_one_machine_stores_all_find<P: SharedPlace>() {
    let place = P::make().await;
    let machines = machines(&place).await;
    let bytes = content(300_000, 21);
    for key in [blob(&bytes), manifest("r.example", "a", &bytes)] {
        for machine in &machines {
            // Misses are never cached.
            assert!(machine.find(&key).await.is_none());
        }
        put(&machines[1], &key, &bytes).await;
        for machine in &machines {
            expect(machine, &key, &bytes).await;
            assert!(machine.read(&key, 299_999, 300_000).await == bytes[299_999..]);
        }
    }
}

pub(crate) async fn machines_that_store_the_same_at_once_leave_one_sound_copy<P: SharedPlace>() {
    let place = P::make().await;
    let machines = machines(&place).await;
    let bytes = content(200_000, 22);
    let keys = [blob(&bytes), manifest("r.example", "a", &bytes)];
    for key in &keys {
        let storing = machines.iter().enumerate().map(|(number, machine)| {
            let mut meta = meta(key, 200_000);
            meta.sources = vec![source(&format!("r{number}.example"))];
            put_as(machine, key, &bytes, meta)
        });
        futures_util::future::join_all(storing).await;
        for machine in &machines {
            expect(machine, key, &bytes).await;
        }
        // A lost source is only probed again, but the verification mark must never be lost.
        for known in sidecars(&place, key) {
            assert!(known.verified && !known.sources.is_empty());
        }
        expect(&place.machine().await, key, &bytes).await;
    }
    expect_only(&place, &[&keys[0], &keys[1]]);
}

pub(crate) async fn the_last_pointer_of_a_tag_is_found_by_all<P: SharedPlace>() {
    let place = P::make().await;
    let machines = machines(&place).await;
    let name = tag("library/a", "v1", "native");
    for (number, machine) in machines.iter().enumerate() {
        let wanted = pointer(&name, &number.to_le_bytes(), 5 + number as u64);
        machine.set_tag(&name, &wanted).await;
        for machine in &machines {
            assert_eq!(machine.tag(&name).await.as_ref(), Some(&wanted));
        }
    }
}

pub(crate) async fn a_record_that_one_machine_writes_all_find<P: SharedPlace>() {
    let place = P::make().await;
    let machines = machines(&place).await;
    let of = record_of("library/a", RecordName::Unsupported);
    for (number, machine) in machines.iter().enumerate() {
        machine
            .set_record(&of, Some(&record(&of, "", 5 + number as u64)))
            .await;
        for machine in &machines {
            let found = machine.record(&of).await.map(|record| record.checked_at_ms);
            assert_eq!(found, Some(5 + number as u64));
        }
    }
}
