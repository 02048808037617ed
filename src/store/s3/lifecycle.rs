//! The cache's rules in the bucket's lifecycle configuration. With these rules, the engine removes
//! stored objects after some days. S3 can only replace all rules at once, so foreign rules are read
//! and written back unchanged.

use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, ExpirationStatus, LifecycleExpiration,
    LifecycleRule, LifecycleRuleFilter,
};

use super::S3Operation;
use super::S3Store;
use super::error::{S3Error, classify};
use crate::store::layout::{BLOBS, MANIFESTS};

/// Common prefix of the rule names. The prefix alone is the rule name of the older system, from
/// which this format descends.
const NAME: &str = "oci-cache-expiry";

/// Days after which the engine removes parts of incomplete uploads, left by a dead machine.
const PARTS_DAYS: i32 = 1;

impl S3Store {
    /// Updates the cache's lifecycle rules to the configuration, if they differ.
    ///
    /// # Errors
    ///
    /// The engine has no lifecycle support, or denies the change.
    pub(super) async fn settle_lifecycle(&self) -> Result<(), S3Error> {
        const DOING: S3Operation = S3Operation::ChangeLifecycle;
        let (client, bucket) = (&self.0.client, &self.0.bucket);
        let request = client.get_bucket_lifecycle_configuration().bucket(bucket);
        let old = match request.send().await {
            Ok(answer) => answer.rules.unwrap_or_default(),
            Err(error) => {
                let code = aws_sdk_s3::error::ProvideErrorMetadata::code(&error);
                if code != Some("NoSuchLifecycleConfiguration") {
                    return Err(classify(S3Operation::ReadLifecycle, "all objects", &error));
                }
                Vec::new()
            }
        };
        let new = merge(&old, &self.0.prefix, self.0.lifecycle_days);
        if new == old {
            return Ok(());
        }
        if new.is_empty() {
            let request = client.delete_bucket_lifecycle().bucket(bucket).send().await;
            return request
                .map(drop)
                .map_err(|error| classify(DOING, "all objects", &error));
        }
        let rules = BucketLifecycleConfiguration::builder()
            .set_rules(Some(new))
            .build();
        let rules = rules.expect("rules are given");
        let request = client.put_bucket_lifecycle_configuration().bucket(bucket);
        let result = request.lifecycle_configuration(rules).send().await;
        result
            .map(drop)
            .map_err(|error| classify(DOING, "all objects", &error))
    }
}

/// Returns the bucket's rules with the configured rules of the cache. For 0 days, the cache has no
/// rules.
fn merge(old: &[LifecycleRule], prefix: &str, days: u32) -> Vec<LifecycleRule> {
    let ours = if days == 0 {
        Vec::new()
    } else {
        rules(prefix, days)
    };
    let names = [name(prefix, BLOBS), name(prefix, MANIFESTS)];
    let is_ours = |rule: &LifecycleRule| match rule.id() {
        // The older system has one rule per bucket, for any prefix.
        Some(NAME) => filter_prefix(rule).unwrap_or_default() == prefix,
        Some(id) => names.iter().any(|name| name == id),
        None => false,
    };
    // Each rule replaces its previous version in place, so that unchanged rules compare equal.
    let mut left = ours;
    let mut new = Vec::new();
    for rule in old {
        if !is_ours(rule) {
            new.push(rule.clone());
        } else if let Some(at) = left.iter().position(|ours| ours.id() == rule.id()) {
            let ours = left.remove(at);
            // Engines add default values. The comparison covers only fields set by the cache.
            new.push(if same(rule, &ours) { rule.clone() } else { ours });
        }
    }
    new.extend(left);
    new
}

/// Returns one rule per folder, so that foreign objects in the bucket are safe even without a
/// prefix.
fn rules(prefix: &str, days: u32) -> Vec<LifecycleRule> {
    [BLOBS, MANIFESTS]
        .into_iter()
        .map(|folder| {
            let days = i32::try_from(days).expect("the configuration allows a hundred years");
            LifecycleRule::builder()
                .id(name(prefix, folder))
                .status(ExpirationStatus::Enabled)
                .filter(
                    LifecycleRuleFilter::builder()
                        .prefix(format!("{prefix}{folder}/"))
                        .build(),
                )
                .expiration(LifecycleExpiration::builder().days(days).build())
                .abort_incomplete_multipart_upload(
                    AbortIncompleteMultipartUpload::builder()
                        .days_after_initiation(PARTS_DAYS)
                        .build(),
                )
                .build()
                .expect("the rule has a status")
        })
        .collect()
}

fn name(prefix: &str, folder: &str) -> String {
    format!("{NAME}:{prefix}{folder}")
}

fn filter_prefix(rule: &LifecycleRule) -> Option<&str> {
    #[allow(deprecated, reason = "older rules use this field")]
    rule.filter()
        .and_then(LifecycleRuleFilter::prefix)
        .or(rule.prefix())
}

fn same(there: &LifecycleRule, ours: &LifecycleRule) -> bool {
    let days = |rule: &LifecycleRule| rule.expiration().and_then(LifecycleExpiration::days);
    let parts = |rule: &LifecycleRule| {
        rule.abort_incomplete_multipart_upload()
            .and_then(AbortIncompleteMultipartUpload::days_after_initiation)
    };
    there.status() == ours.status()
        && filter_prefix(there) == filter_prefix(ours)
        && days(there) == days(ours)
        && parts(there) == parts(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(id: &str, prefix: &str) -> LifecycleRule {
        LifecycleRule::builder()
            .id(id)
            .status(ExpirationStatus::Enabled)
            .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
            .expiration(LifecycleExpiration::builder().days(7).build())
            .build()
            .unwrap()
    }

    fn ids(rules: &[LifecycleRule]) -> Vec<&str> {
        rules.iter().filter_map(LifecycleRule::id).collect()
    }

    #[test]
    fn foreign_lifecycle_rules_are_kept() {
        let others = [
            foreign("backups", "backups/"),
            foreign("oci-cache-expiry", "other/"),
        ];
        let with_ours = merge(&others, "eu/", 28);
        assert_eq!(with_ours[..2], others);
        assert_eq!(
            ids(&with_ours)[2..],
            ["oci-cache-expiry:eu/blobs", "oci-cache-expiry:eu/manifests"]
        );
        assert_eq!(
            merge(&with_ours, "eu/", 28),
            with_ours,
            "an equal rule causes no change"
        );
        let changed = merge(&with_ours, "eu/", 30);
        assert_eq!(changed[2].expiration().unwrap().days(), Some(30));
        assert_eq!(
            merge(&changed, "eu/", 0),
            others,
            "only the rules of the cache are removed"
        );
        assert_eq!(
            merge(&changed, "us/", 0),
            changed,
            "rules of another prefix are kept"
        );
    }

    #[test]
    fn lifecycle_rule_of_the_old_system_is_replaced() {
        let older = [foreign("oci-cache-expiry", "eu/")];
        assert_eq!(merge(&older, "eu/", 0), []);
        assert_eq!(
            ids(&merge(&older, "eu/", 9)),
            ["oci-cache-expiry:eu/blobs", "oci-cache-expiry:eu/manifests"]
        );
    }

    #[test]
    fn lifecycle_rules_cover_only_the_folders_of_the_cache() {
        for rule in rules("", 28) {
            assert!(matches!(filter_prefix(&rule), Some("blobs/" | "manifests/")));
        }
    }
}
