//! The index of a large store: 850,000 blobs and 150,000 manifests with 8 layers each.
//!
//! Run by `scripts/store.sh`, which builds with optimization. Prints its figures.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::index_sample::{blob, facts, image, insert_tag, manifest};
use crate::limits::INDEX_COPY_OBJECTS;
use crate::store::eviction::{Minute, Need, choose};
use crate::store::index::{Index, Leaving, copy_of};
use crate::store::pins::{Pin, Pins};
use crate::sync::Mutex;

const MANIFESTS: usize = 150_000;
const BLOBS: usize = 850_000;
const LAYERS: usize = 8;
const REPOSITORIES: usize = 1_000;

/// The longest wait of another thread for the index. The unit of the machine is a time slice of its
/// scheduler, some milliseconds.
const WAIT_MAX: Duration = Duration::from_millis(20);

fn large_index() -> Index {
    let mut index = Index::new(Minute(1));
    for number in 0..BLOBS {
        index.insert(&blob(&format!("blob {number}")), facts(1, 1), None);
    }
    for number in 0..MANIFESTS {
        let repository = format!("org/app-{}", number % REPOSITORIES);
        let name = format!("manifest {number}");
        let layers: Vec<String> = (0..LAYERS)
            .map(|layer| format!("blob {}", (number * 5 + layer * layer) % BLOBS))
            .collect();
        let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
        index.insert(&manifest(&repository, &name), facts(0, 1), Some(&image(&layers)));
        insert_tag(&mut index, &repository, &format!("v{number}"), &name);
    }
    index.set_whole();
    index
}

/// Runs `job` while another thread locks the index again and again. Returns the longest wait.
fn longest_wait<T>(index: &Mutex<Index>, name: &str, job: impl FnOnce() -> T) -> (T, Duration) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                drop(index.lock());
                longest = longest.max(began.elapsed());
                thread::park_timeout(Duration::from_micros(50));
            }
            longest
        });
        let began = Instant::now();
        let result = job();
        let took = began.elapsed();
        is_over.store(true, Ordering::Relaxed);
        let longest = waiting.join().expect("the thread only waits");
        println!("{name}: {took:?}, longest wait for the index {longest:?}");
        (result, longest)
    })
}

#[test]
#[ignore = "needs optimization: scripts/store.sh"]
fn removal_from_a_million_objects_holds_up_no_other_thread() {
    let index = Mutex::new(large_index());
    let lock = || index.lock();
    let (copy, copied) = longest_wait(&index, "copy", || copy_of(lock, INDEX_COPY_OBJECTS));
    let (images, listed) = longest_wait(&index, "list of images", || copy.images());
    let half: Vec<_> = images.iter().step_by(2).collect();
    let (plan, planned) = longest_wait(&index, "plan", || copy.plan_removal(half));
    let pins = Pins::default();
    let check = || Leaving::new(lock, INDEX_COPY_OBJECTS, &plan, &pins);
    let (mut leaving, checked) = longest_wait(&index, "check", check);
    let remove = || {
        for (at, object) in plan.objects.iter().enumerate() {
            let mut index = index.lock();
            if leaving.contains(&index, at) {
                index.remove_number(object.number);
            }
        }
    };
    let ((), removed) = longest_wait(&index, "removal", remove);
    println!("{} of {} objects are left", index.lock().len(), copy.len());
    assert_eq!(index.lock().len(), copy.len() - plan.objects.len());
    for wait in [copied, listed, planned, checked, removed] {
        assert!(wait < WAIT_MAX, "{wait:?}");
    }
}

#[test]
#[ignore = "needs optimization: scripts/store.sh"]
fn victims_among_a_million_objects_are_chosen_beside_other_threads() {
    let index = Mutex::new(large_index());
    let mut pins = Pins::default();
    let need = Need {
        bytes: 1 << 30,
        files: 0,
        metadata_bytes_max: u64::MAX,
    };
    for pin in [None, Some("r.example/org/app-1")] {
        if let Some(pin) = pin {
            pins.add(Pin::parse(pin).expect("a pattern")).expect("one pin");
        }
        let choose = || {
            let copy = copy_of(|| index.lock(), INDEX_COPY_OBJECTS);
            choose(&copy.with_pins(&pins), Minute(100), need).len()
        };
        let (victims, wait) = longest_wait(&index, &format!("choice with pin {pin:?}"), choose);
        assert!(victims > 0);
        assert!(wait < WAIT_MAX, "{wait:?}");
    }
}
