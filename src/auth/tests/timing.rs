//! Tests that the time of a comparison does not reveal the similarity of a guess. Uses Welch's
//! t-test over many measurements, like `dudect` (Reparaz, Balasch and Verbauwhede, "Dude, is my
//! code constant time?").

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::credentials::CredentialStore;
use crate::config::{ClientAuthConfig, Htpasswd, SecretText};

/// Measurements of both classes together.
const SAMPLES: usize = 1_000_000;

/// Measurements of a check against a hash, slow by design.
const HASH_SAMPLES: usize = 2_000;

/// Largest t-value for equal classes. Chance exceeds this value with odds of less than 1 in
/// 100,000.
const T_MAX: f64 = 4.5;

/// Attempts per test. A leak appears in every attempt, unlike noise of the machine.
const ATTEMPTS: usize = 4;

/// Fraction of the measurements to keep. Longer measurements are interruptions.
const CROP: f64 = 0.9;

/// Length of the password. A comparison with an early exit would save measurable time.
const PASSWORD_BYTES: usize = 600;

/// Returns a random class (xorshift64). Random order exposes both classes to equal conditions.
fn random_bool(state: &mut u64) -> bool {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state & 1 == 1
}

/// Returns the t-value of the times of `check` for two inputs of equal length.
fn t_value(samples: usize, inputs: [&str; 2], mut check: impl FnMut(&str) -> bool) -> f64 {
    assert_eq!(inputs[0].len(), inputs[1].len());
    let mut state = 0x9E37_79B9_7F4A_7C15;
    let mut buffer = String::with_capacity(inputs[0].len());
    let mut found = 0;
    let mut times: Vec<(bool, f64)> = (0..samples)
        .map(|_| {
            let class = random_bool(&mut state);
            // Both classes are read from one buffer.
            buffer.clear();
            buffer.push_str(inputs[usize::from(class)]);
            let began = Instant::now();
            found += usize::from(std::hint::black_box(check(std::hint::black_box(&buffer))));
            (class, began.elapsed().as_nanos() as f64)
        })
        .collect();
    assert_eq!(found, 0, "both inputs are wrong");
    times.sort_by(|one, other| one.1.total_cmp(&other.1));
    times.truncate((samples as f64 * CROP) as usize);
    let [one, other] = [false, true].map(|class| {
        let times = times.iter().filter(|(of, _)| *of == class).map(|(_, time)| *time);
        let (count, sum) = times
            .clone()
            .fold((0.0, 0.0), |(count, sum), time| (count + 1.0, sum + time));
        let mean = sum / count;
        let variance = times.map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    });
    (one.0 - other.0) / (one.1 + other.1).sqrt().max(f64::MIN_POSITIVE)
}

/// Returns the smallest t-value of several attempts.
fn least_t(samples: usize, inputs: [&str; 2], mut check: impl FnMut(&str) -> bool) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..ATTEMPTS {
        least = least.min(t_value(samples, inputs, &mut check).abs());
        if least < T_MAX {
            break;
        }
    }
    least
}

fn shown(name: &str, password: &str) -> String {
    STANDARD.encode(format!("{name}:{password}"))
}

/// Returns two wrong passwords, one with a wrong first byte and one with a wrong last byte.
fn late_and_early_mismatch(password: &str) -> [String; 2] {
    let far = format!("x{}", &password[1..]);
    let near = format!("{}x", &password[..password.len() - 1]);
    [far, near]
}

#[test]
fn comparison_time_is_independent_of_the_matching_prefix() {
    let password = "p".repeat(PASSWORD_BYTES);
    let store = CredentialStore::new(ClientAuthConfig {
        user: Some(("Aladdin".into(), SecretText::new(password.clone()))),
        ..ClientAuthConfig::default()
    });
    let guesses = late_and_early_mismatch(&password).map(|guess| shown("Aladdin", &guess));
    let t = least_t(SAMPLES, [&guesses[0], &guesses[1]], |guess| {
        store.user(guess).is_some()
    });
    eprintln!("t = {t:.2} over {SAMPLES} comparisons");
    assert!(t < T_MAX, "{t}");
}

#[test]
fn timing_test_detects_an_early_exit_comparison() {
    let password = "p".repeat(PASSWORD_BYTES);
    let guesses = late_and_early_mismatch(&password);
    let t = t_value(SAMPLES / 10, [&guesses[0], &guesses[1]], |guess| {
        guess.len() == password.len()
            && guess
                .bytes()
                .zip(password.bytes())
                .all(|(one, other)| std::hint::black_box(one) == other)
    });
    assert!(t.abs() > T_MAX, "the method does not detect the leak: {t}");
}

#[test]
fn hash_time_does_not_reveal_whether_a_user_exists() {
    let hash = |password: &str| bcrypt::hash(password, 4).expect("a hash");
    let file = format!("alice:{}\nbobby:{}\n", hash("right"), hash("other"));
    let store = CredentialStore::new(ClientAuthConfig {
        htpasswd: Some(Htpasswd::parse("/f".into(), &file).expect("a valid file")),
        ..ClientAuthConfig::default()
    });
    let guesses = ["alice", "carol"].map(|name| shown(name, "wrong"));
    let t = least_t(HASH_SAMPLES, [&guesses[0], &guesses[1]], |guess| {
        store.password_check(guess).is_some_and(|check| check.is_right())
    });
    eprintln!("t = {t:.2} over {HASH_SAMPLES} checks");
    assert!(t < T_MAX, "{t}");
}
