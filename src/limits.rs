//! Every bound in the process, each with its arithmetic.

use std::time::Duration;

// --- Connections ---

/// The default limit of connections for the whole process, where the descriptors suffice. At 4 KiB each, idle connections
/// take 80 MiB.
pub const CONNECTIONS_MAX: usize = 20_000;

/// Descriptors that are never for connections: listeners, rings and wakers of a few cores, the helper pool, logs. Of
/// the others four fifths are for connections, and one fifth for content: open files, pipes, upstreams.
pub const DESCRIPTORS_RESERVED: usize = 128;

/// Connections there may be at least, however few descriptors there are.
pub const CONNECTIONS_MIN: usize = 16;

/// Connections of one core: what its ring can complete at once (a poll each).
pub const CONNECTIONS_PER_CORE_MAX: usize = 16_384;

/// Connections accepted in a row before a core turns to those it has.
pub const ACCEPTS_PER_TURN: usize = 256;

/// Idle connections that one eviction closes at most, and the largest part of the limit that it closes (a divisor).
pub const EVICTIONS_AT_ONCE_MAX: usize = 64;
pub const EVICTIONS_AT_ONCE_DIVISOR: usize = 32;

/// A connection that was idle for so long, however busy it was before, makes room for a new one.
pub const IDLE_EVICTION_AGE: Duration = Duration::from_secs(1);

/// A head that has been coming for so long makes room like an idle connection, when there is none.
pub const SLOW_HEAD_EVICTION_AGE: Duration = Duration::from_secs(2);

/// Accepted sockets in the handoff queue of a core. Further connections stay on the core that accepted them.
pub const HANDOFF_QUEUE_MAX: usize = 256;

// --- Logged conditions ---

/// Time without a new event after which a logged condition has ended.
pub const CONDITION_QUIET_TIME: Duration = Duration::from_secs(10);

// --- Memory budget ---

/// Memory counted for a response in flight: its bytes in the kernel's socket buffer, and our part.
pub const RESPONSE_BYTES: u64 = 256 * 1024;

/// The memory budget is never chosen smaller: 16 fills.
pub const MEMORY_BUDGET_MIN: u64 = 64 * 1024 * 1024;

// --- Request heads ---

/// Receive buffer a connection starts with, in bytes. Heads of docker, containerd and podman are 300 to 900.
pub const RECEIVE_BUFFER_BYTES: usize = 1_024;

/// From the first byte of a head to its last.
pub const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the first request of a client that connected at the start of a shutdown: a round trip over a long distance,
/// with a handshake.
pub const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

// --- TLS ---

/// From the first byte of a TLS handshake, or the connection, to the end of the handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The length of a handshake turn: TLS handshakes take this time of a core before other connections run. One handshake
/// operation takes 0.2 ms with an ECDSA key and 5 ms with the largest RSA keys, so a turn is 2 to 7 ms.
pub const HANDSHAKE_TURN_TIME: Duration = Duration::from_millis(2);

/// Sessions remembered for clients of TLS 1.2 without tickets: about 1 KiB each, more where clients show certificates.
pub const TLS_SESSIONS_MAX: usize = 8_192;

/// Bytes that a TLS session takes before the socket has to take them: four full records. Every client that stalls keeps as many.
/// Medians of noisy rounds (`scripts/bench.sh quick tls-1g` shows it, built with others): 1 GiB arrives at 0.87 to 0.92 of the
/// speed with 16 KiB, at 0.96 to 1.05 with 32 KiB, at 1.02 to 1.2 with 128 KiB, at 0.95 to 1.24 with 256 KiB.
pub const TLS_PENDING_BYTES: usize = 64 * 1024;

/// Records after which a kTLS session accepts no further request: its key is near its limit. AES-GCM is good for 2^24.5 full
/// records under one key (RFC 8446, 5.5), and the kernel cannot change keys. 2^23 records are 128 GiB in full records, four
/// million answers in small ones. As many again are for answers in flight. At the second number the key is exhausted, and
/// answers are cut off.
pub const KTLS_RECORDS_SOFT_MAX: u64 = 1 << 23;
pub const KTLS_RECORDS_MAX: u64 = 1 << 24;

/// Reads in a row that may bring nothing: a full record is five of them, and a client that sends only empty records sends
/// no request.
pub const TLS_READS_MAX: usize = 64;

// --- Connection deadlines ---

/// How often each core checks the deadlines of its connections and hands log lines over.
pub const CONNECTION_SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// Between requests on a kept connection.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);

/// A response of which the client takes nothing.
pub const SEND_STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The minimum throughput of a client in bytes a second, counted over [`SEND_STALL_TIMEOUT`] of waiting for the client.
pub const SEND_RATE_MIN: u64 = 1024;

/// How often it is checked whether a client that waits for an answer is still there, and how long one waits on that has closed
/// its sending side: a client may do so and read on, but none of docker, containerd and podman does.
pub const CLIENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(5);

/// What is read and thrown away after a refusal, so that the client sees the answer instead of a reset.
pub const LINGER_BYTES_MAX: usize = 64 * 1024;
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

// --- Health ---

/// The interval of each core's heartbeat, and of the samples of its loop's delay. Four wake-ups a second
/// cost nothing next to the sweep, which is as frequent.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(250);

/// The interval of the heartbeats of the helper pool and the store. Each heartbeat costs a task and a thread.
pub const HELPER_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The interval of the heartbeat monitor's checks.
pub const WATCHDOG_INTERVAL: Duration = Duration::from_secs(1);

/// Time without a heartbeat after which a core counts as hanging: twenty ticks. No operation of a core takes a hundredth of
/// it.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without a heartbeat after which the process aborts: clients have given up by then.
pub const CORE_ABORT_TIMEOUT: Duration = Duration::from_secs(30);

/// The same where the kernel holds the core in a device's or its own work: the process could not end sooner anyway, and a
/// restart finds the same disk.
pub const CORE_ABORT_TIMEOUT_IN_KERNEL: Duration = Duration::from_secs(600);

/// The interval of the reports of each core's longest loop delay.
pub const DELAY_REPORT_INTERVAL: Duration = Duration::from_secs(10);

// --- systemd ---

/// Sockets that systemd may pass.
pub const INHERITED_SOCKETS_MAX: usize = 64;

/// How long a message to the socket of systemd may take.
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

// --- io_uring ---

/// Attempts to set up a ring when the kernel refuses to lock memory, and the interval between them. The kernel releases
/// the memory of closed rings a moment later.
pub const RING_SETUP_ATTEMPTS_MAX: u32 = 10;
pub const RING_SETUP_RETRY_INTERVAL: Duration = Duration::from_millis(20);

// --- HTTP/2 ---

/// Requests of one HTTP/2 connection in flight at once; the SETTINGS frame states it.
pub const H2_STREAMS_MAX: u32 = 100;

/// What a client may send of a request's body before we look at it: nothing we serve has a use for one.
pub const H2_STREAM_WINDOW_BYTES: u32 = 64 * 1024 - 1;
pub const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// How long the answer waits for the rest of a request that has a body. No request here needs a body, but errors of
/// the body can be reported only before the answer.
pub const REQUEST_BODY_TIMEOUT: Duration = Duration::from_millis(250);

/// The fields of one HTTP/2 request, each counted with 32 bytes more (RFC 9113, 6.5.2).
pub const H2_HEADER_LIST_BYTES_MAX: u32 = 32 * 1024;

/// Body bytes of one stream, and of all streams of a connection, that are read and not yet sent.
pub const H2_STREAM_UNSENT_BYTES_MAX: usize = 64 * 1024;
pub const H2_CONNECTION_UNSENT_BYTES_MAX: usize = 1024 * 1024;

/// Body bytes of all streams of a connection that helper threads read, or have read and that wait for room among the unsent
/// ones: eight streams at once.
pub const H2_CONNECTION_READ_BYTES_MAX: usize = 8 * H2_STREAM_UNSENT_BYTES_MAX;

/// Encoded frames of a connection that wait for the socket; beyond, nothing more is encoded or read.
pub const H2_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Streams that were reset before we saw their request, and streams we reset for a client's errors, before the
/// connection is closed.
pub const H2_UNSEEN_RESETS_MAX: usize = 20;
pub const H2_LOCAL_RESETS_MAX: usize = 256;

/// Streams a client may reset within ten seconds: a hundred a second, and a thousand at once.
pub const H2_RESETS_PER_SECOND: u32 = 100;
pub const H2_RESETS_AT_ONCE: u32 = 1_000;

/// Frames that no request needs (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, CONTINUATION, DATA, unknown ones) a client
/// may send beyond those that its requests and our DATA frames give rise to.
pub const H2_IDLE_FRAMES_PER_SECOND: u32 = 100;
pub const H2_IDLE_FRAMES_AT_ONCE: u32 = 1_000;

/// What one request, and one DATA frame of ours, adds to that: a priority and a window for the one, windows of the stream
/// and the connection for the other, each twice. Saved up to what a thousand large responses in flight may need.
pub const H2_FRAMES_PER_REQUEST: u32 = 8;
pub const H2_FRAMES_PER_DATA: u32 = 4;
pub const H2_FRAME_CREDIT_MAX: u32 = 100_000;

// --- Sending content ---

/// Objects up to this size are served from a core's memory with one `send`. Above it `sendfile` measured
/// better: at 64 KiB and 256 connections 1.27 against 1.12 times nginx.
pub const MEMORY_OBJECT_BYTES_MAX: u64 = 32 * 1024;

/// Entries of a core's memory cache, whatever their size; bounds the index when objects are tiny.
pub const MEMORY_OBJECTS_MAX: usize = 65_536;

/// Bodies from here on go through a pipe (`splice`), smaller ones through `sendfile`.
pub const SPLICE_BYTES_MIN: u64 = 1024 * 1024;

/// The requested capacity of a pipe, and the step in which residency is checked.
pub const PIPE_BYTES: usize = 1024 * 1024;

/// Idle pipes a core keeps. 64 × 1 MiB is an address range, not memory: pipes hold references to pages.
pub const IDLE_PIPES_MAX: usize = 64;

/// Pipes a core has at once; further responses go without. A client that stalls keeps its own, which is two descriptors more:
/// 256 × 2 are 512 of them for each core, where thousands of such clients would take the slots of as many connections.
pub const PIPES_MAX: usize = 256;

const _: () = assert!(IDLE_PIPES_MAX <= PIPES_MAX);

/// What one connection may send, in bytes, before it lets others on the core run.
pub const SEND_TURN_BYTES: u64 = 4 * 1024 * 1024;

/// What is read at once of a file whose pages are missing, and what is sent of it in a turn: 40 us of a core. Small hits
/// beside such a body took 1.3 times as long as alone, with turns of [`SEND_TURN_BYTES`] 8 times as long.
pub const COLD_READ_BYTES: u64 = 256 * 1024;

/// How long helper threads read every file, after the kernel took pages back that a client then wanted: memory is short,
/// and what the page cache has now may be gone a moment later.
pub const MEMORY_PRESSURE_TIME: Duration = Duration::from_secs(5);

/// Helper threads that may read files for clients at once: steps whose pages are in memory as far as is known, steps of
/// small bodies that wait for a disk, and steps of large bodies that do. A slow disk holds no more than these 96 of
/// [`BLOCKING_THREADS_MAX`] (512); lookups and health checks find the others.
pub const READERS_CACHED_MAX: usize = 32;
pub const READERS_SMALL_MAX: usize = 32;
pub const READERS_LARGE_MAX: usize = 32;

/// How long a step waits for one of these threads: 1,000 clients of a disk of 1 MB/s need 256 s for a step each.
pub const READER_QUEUE_TIMEOUT: Duration = Duration::from_secs(300);

/// Unsent bytes that the kernel takes for a client that requested an open range, which commonly closes the connection, or
/// resets the stream, when it has a part. With HTTP/2 the limit holds for the connection from its first open range on.
pub const OPEN_RANGE_UNSENT_BYTES: u32 = 128 * 1024;

/// Bytes of an open range that an HTTP/2 client may have received and not read, and the time within which it grants window for
/// some of them. The kernel's 128 KiB and [`H2_SEND_BUFFER_BYTES`] come before them. A client that is slower gets twice the bytes; one
/// that has not granted any window gets all that its window allows.
pub const H2_OPEN_RANGE_UNREAD_BYTES: u64 = 256 * 1024;
pub const H2_OPEN_RANGE_TIMEOUT: Duration = Duration::from_millis(200);

/// The same for what is encrypted on the core: 0.3 to 0.6 ms.
pub const TLS_SEND_TURN_BYTES: u64 = 1024 * 1024;

// --- Open files ---

/// Open files of committed blobs a core keeps: a tenth of the descriptors together, and within these bounds.
pub const OPEN_FILES_PER_CORE_MAX: usize = 1_024;
pub const OPEN_FILES_PER_CORE_MIN: usize = 16;

// --- Manifests, lists and response cache ---

/// Manifests up to this size are accepted (the specification requires at least 4 MiB).
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Lists (tags, referrers) up to this size are accepted: 30,000 of the longest tags.
pub const LISTING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long a list is served from the response cache without another request: long enough for a burst of builds, short
/// enough that a client finds a tag soon after its push.
pub const LISTING_TTL: Duration = Duration::from_secs(15);

/// Bytes of lists kept in memory, shared by all cores; four of the largest, thousands of ordinary ones.
pub const LISTINGS_BYTES_MAX: u64 = 4 * LISTING_BYTES_MAX as u64 + 64 * 1024;

/// Lists kept in memory, whatever their size.
pub const LISTINGS_MAX: usize = 4_096;

/// Records of referrers in a directory, and those of one process in a bucket (pages of lists, and answers of 404), whatever their
/// size: three for each of 5,000 images. The table of their names takes 400 bytes each, 7 MiB.
pub const RECORDS_MAX: usize = 16_384;

/// Bytes of all those records: 64 of the largest; 16,384 of an ordinary size (1 to 4 KiB) are 64 MiB.
pub const RECORDS_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The largest record: a list, and what is noted with it (two queries of 2 KiB at most).
pub const RECORD_BYTES_MAX: u64 = LISTING_BYTES_MAX as u64 + 16 * 1024;

/// Repositories of which is remembered when they last listed referrers: 300 bytes each, 1.2 MiB.
pub const LISTING_REPOSITORIES_MAX: usize = 4_096;

/// How long a 404 is remembered: the time between the runs of two tools of one pipeline. A push that follows a 404 is
/// visible at the latest after this time.
pub const ABSENCE_TTL: Duration = Duration::from_secs(5);

/// 404s remembered, shared by all cores, and their bytes: 700 bytes each, 3 MiB. The largest, with a query of 2 KiB, take
/// 3 KiB each.
pub const ABSENCES_MAX: usize = 4_096;
pub const ABSENCES_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Tags per page in requests to an upstream, for any page size of the client: the maximum of the large registries.
pub const TAGS_PER_PAGE_MAX: u64 = 1_000;

/// Caches in the `Via` field of a request; a request with more of them counts as a loop.
pub const VIA_MAX: usize = 10;

// --- Fills ---

/// Bodies up to this size are verified before their first byte is sent.
pub const HELD_WHOLE_BYTES_MAX: u64 = 1024 * 1024;

/// End of a larger body that is withheld until its digest was found right.
pub const WITHHELD_BYTES: u64 = 64 * 1024;

/// Bytes of a fill kept in memory: what the disk has not taken yet and what followers near the end read.
/// 256 fills × 4 MiB are 1 GiB, and [`RESERVED_FETCHES_MAX`] may add as much; 64 fills, a busy node, are 256 MiB. A fill that was
/// stored lets go of it; one that could not be stored keeps it until its last follower has it all.
pub const FILL_WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of a fill's window that are kept for followers although the disk has them.
pub const FILL_WINDOW_KEPT_BYTES: usize = 2 * 1024 * 1024;

/// The most a follower takes out of the window at once.
pub const FOLLOWER_BYTES_MAX: usize = 256 * 1024;

/// Time one fill may be held up by its disk before it goes on without it, beyond what [`FILL_DISK_RATE_MIN`] earns.
pub const FILL_DISK_WAIT_MAX: Duration = Duration::from_secs(1);

/// Bytes a second that a disk must take for a fill to wait for it: below the slowest disk anybody caches images on, and
/// above what makes a client give up.
pub const FILL_DISK_RATE_MIN: u64 = 32 * 1024 * 1024;

/// Pause after a failed write before the next fill tries the disk again.
pub const STORE_RETRY_INTERVAL: Duration = Duration::from_secs(30);

// --- Fetch slots ---

/// Fetches that run at once and take a window: blobs, manifests and lists. Further ones wait [`FETCH_QUEUE_TIMEOUT`]. A registry
/// takes at most half of a class's slots, and less when others have some; see `cache/shares.rs`.
pub const FILLS_MAX: usize = BLOB_FETCHES_MAX + MANIFEST_FETCHES_MAX;
pub const BLOB_FETCHES_MAX: usize = 160;
pub const MANIFEST_FETCHES_MAX: usize = 96;
pub const FETCH_QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

/// Slots for fetches of a class where there are few descriptors: fewer would make one pull wait for another.
pub const FETCHES_MIN: u64 = 8;

/// Fetches of each class that a registry with an entry in the configuration runs on top of these, so that no other registry
/// takes its last slot: clients pull three blobs at once. All registries together run no more than the second number of
/// them, but for the first fetch of each, which the configuration bounds. For two classes they are 256 windows, 1 GiB of the
/// memory budget at the very most.
pub const RESERVED_FETCHES_MAX: u64 = 4;
pub const RESERVED_FETCHES_TOTAL_MAX: u64 = 128;

/// The part of the memory budget, as a divisor, that is kept for registries with an entry that hold little of it: four
/// windows of the smallest budget, and 128 windows of one of 2 GiB.
pub const RESERVED_MEMORY_DIVISOR: u64 = 4;

/// Revalidations of held copies in flight. They take no window; each is a connection, 64 KiB.
pub const BACKGROUND_FETCHES_MAX: usize = 256;

/// How long a revalidation waits for its slot: the held copy is served otherwise.
pub const BACKGROUND_QUEUE_TIMEOUT: Duration = Duration::from_secs(2);

/// Fetches of one registry that wait for a slot, at 300 bytes each. Unlisted registries have four times as many together.
pub const FETCHES_WAITING_MAX: usize = 1_024;

/// Waiting fetches of all registries together that have no entry in the configuration and never gave good content.
pub const UNPROVEN_WAITING_MAX: usize = 1_024;

/// Registries without an entry that are remembered for good content: 100 bytes each.
pub const PROVEN_REGISTRIES_MAX: usize = 1_024;

// --- Deserted and slow fetches ---

/// How often it is checked whether a fetch is still followed and how fast it is.
pub const FETCH_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a fetch may be without a client before it counts as deserted: between two requests of a client that resumes.
pub const DESERTED_GRACE_TIME: Duration = Duration::from_secs(1);

/// How long a new fill waits for its first client, which is on its way from a core.
pub const FIRST_CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes a second that a fill without clients must receive, counted over [`FILL_RATE_WINDOW`]: a layer of 100 MiB arrives in
/// less than seven minutes. A slower one costs more than it will save.
pub const FILL_RATE_MIN: u64 = 256 * 1024;
pub const FILL_RATE_WINDOW: Duration = Duration::from_secs(10);

/// How long a fill goes on without clients: 150 MiB at [`FILL_RATE_MIN`], 60 GiB at 100 MiB/s.
pub const DESERTED_FILL_TIMEOUT: Duration = Duration::from_secs(600);

/// Bytes that a fill receives without clients: the rest of the largest layers; less where the upstream stated no length,
/// because such a body may have no end.
pub const DESERTED_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
pub const DESERTED_UNSIZED_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How long a manifest or list that no client waits for any more goes on.
pub const DESERTED_MANIFEST_TIMEOUT: Duration = Duration::from_secs(5);

/// From the head of a manifest or list to its end: [`SMALL_BODY_TIMEOUT`], and more for what [`SMALL_BODY_RATE_MIN`] earns.
/// The largest (4 MiB) may take 94 seconds, one of 10 KiB half a minute.
pub const SMALL_BODY_TIMEOUT: Duration = Duration::from_secs(30);
pub const SMALL_BODY_RATE_MIN: u64 = 64 * 1024;

// --- Disk space of fills ---

/// Room on the disk is reserved in steps, as bytes come: as much as there is already, within these bounds.
pub const RESERVE_STEP_MIN: u64 = 64 * 1024;
pub const RESERVE_STEP_MAX: u64 = 32 * 1024 * 1024;

/// What a registry's unfinished blobs may take of the disk, as a multiple of what they leave free: seven eighths of the
/// free room where the upstream stated the length, half of it where it did not.
pub const ROOM_WEIGHT_SIZED: u64 = 7;
pub const ROOM_WEIGHT_UNSIZED: u64 = 1;

// --- Store and tags ---

/// How long a lookup may take before it counts as a miss: a disk that stalls must not hold up a pull that the
/// upstream can serve. Hashing an entry of an older store takes longer; it goes on and is found the next time.
pub const STORE_LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause after a lookup that took too long, in which everything that is not open or in memory is a miss.
pub const STORE_STALL_COOLDOWN: Duration = Duration::from_secs(5);

/// Bytes of a passed-through response in the body channel, which wait for the client.
pub const BODY_CHANNEL_BYTES_MAX: usize = 1024 * 1024;

/// Largest sidecar or tag pointer read. Upstream heads are bounded to 128 KiB; JSON escapes may double that, and
/// our marks come on top.
pub const SIDECAR_BYTES_MAX: u64 = 512 * 1024;

/// Tags whose newest pointer is kept in memory, shared by all cores.
pub const TAGS_IN_MEMORY_MAX: usize = 65_536;

/// How long tags live at most that are made from digests (`sha256-<hex>`, `.sig`, `.att`, `.sbom`): signatures are added
/// after the image, and clients request them at once.
pub const DERIVED_TAG_TTL_MAX: Duration = Duration::from_secs(10);

// --- Access to repositories ---

/// How long a recorded grant of an upstream holds, from the request on: the longest time a client may go on reading
/// after the right was withdrawn.
pub const GRANT_TTL: Duration = Duration::from_secs(60);

/// Grants recorded: of callers for repositories, and of content for repositories, each. About 200 bytes each, 3 MiB.
pub const GRANTS_MAX: usize = 16_384;

/// How long a recorded denial holds: requests for that repository use the client's credentials first.
pub const ANONYMOUS_DENIAL_TTL: Duration = Duration::from_secs(60);

// --- Client authentication ---

/// Threads that check passwords against bcrypt hashes. At the 50 ms of cost 10, two make 40 checks a second, and each
/// credential needs one in [`PASSWORD_TTL`].
pub const AUTH_THREADS: usize = 2;

/// Password checks that may wait for a thread: less than two seconds' worth at cost 10. Further ones are refused (503).
pub const AUTH_QUEUE_MAX: usize = 64;

/// Password checks in flight for one address prefix (one IPv4 address or one IPv6 /64): a client that tries passwords
/// leaves three quarters of the queue to others.
pub const AUTH_CHECKS_PER_ADDRESS_MAX: usize = 16;

/// Requests that wait for one password check: a fleet that starts with the same credential at once.
pub const AUTH_WAITERS_MAX: usize = 16_384;

/// How long a request waits for the check of its password.
pub const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a password that was found right is not checked again. A changed htpasswd file ends it at once.
pub const PASSWORD_TTL: Duration = Duration::from_secs(300);

/// How long one that was found wrong is not: long enough for a client that repeats itself.
pub const PASSWORD_NEGATIVE_TTL: Duration = Duration::from_secs(10);

/// Cached password checks, as credential digests: of right and of wrong passwords each. About 150 bytes each, 1.2 MiB.
pub const CACHED_PASSWORDS_MAX: usize = 4_096;

/// Longest credentials that are checked, in base64; bcrypt itself looks at 72 bytes of a password.
pub const CREDENTIAL_BYTES_MAX: usize = 1_024;

/// Cached identities of a core, as credential digests, and their lifetime. With the rules for each 300 bytes at most,
/// 1.2 MiB.
pub const IDENTITIES_PER_CORE_MAX: usize = 4_096;
pub const IDENTITY_TTL: Duration = Duration::from_secs(60);

/// Pause between two checks of an htpasswd file. One `stat`.
pub const HTPASSWD_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Rules under `allow`, in one list. With each answer in memory goes a set of them: 1,024 are 128 bytes.
pub const ALLOW_RULES_MAX: usize = 1_024;

// --- Bucket reads ---

/// How long a bucket may take to say whether it has something, before it counts as a miss. Engines answer in 10 to 200 ms; a
/// client waits for this once, then [`BUCKET_STALL_COOLDOWN`] holds.
pub const BUCKET_LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it may take to begin giving what it has said it has, or to give all of what is small. One attempt of the engine's
/// ([`S3_ATTEMPT_TIMEOUT`]) and a connection that had to be made.
pub const BUCKET_OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after an answer of the bucket that took too long, in which it has nothing.
pub const BUCKET_STALL_COOLDOWN: Duration = Duration::from_secs(5);

/// Further requests to the bucket for a body that broke before it brought [`BUCKET_PROGRESS_BYTES_MIN`]; then the registry
/// gets a request for the rest.
pub const BUCKET_BODY_RETRIES_MAX: u32 = 2;
pub const BUCKET_PROGRESS_BYTES_MIN: u64 = 1024 * 1024;

/// How long content that came wrong from the bucket stays quarantined: hashing the largest layers takes less.
pub const QUARANTINE_TIME: Duration = Duration::from_secs(60);

/// Quarantined objects recorded, at 100 bytes each.
pub const QUARANTINED_MAX: usize = 4_096;

/// How long a URL is good with which a client gets a blob from the bucket by itself. It is used at once.
pub const BUCKET_URL_TTL: Duration = Duration::from_secs(60);

/// A range that begins at least this far inside a blob that is not here yet is read from the bucket beside the fill: at
/// 100 MB/s a fill needs a third of a second to get there.
pub const BUCKET_RANGE_DISTANCE_MIN: u64 = 32 * 1024 * 1024;

// --- Bucket uploads ---

/// Uploads in flight. Each reads a file in parts; four saturate what a node has left beside its clients.
pub const UPLOADS_MAX: usize = 4;

/// Uploads of one registry in flight: one worker is left for the others.
pub const UPLOADS_PER_REGISTRY_MAX: usize = UPLOADS_MAX - 1;

/// Uploads waiting: at 500 bytes each 4 MiB, and hours of a busy node's new layers. A registry has at most as many as it leaves
/// to others, and the same holds for the memory below.
pub const UPLOADS_QUEUED_MAX: usize = 8_192;

/// Bytes of manifests waiting in memory for their upload: thousands of ordinary ones, 16 of the largest.
pub const UPLOADS_MEMORY_MAX: u64 = 64 * 1024 * 1024;

/// Attempts at one upload while the bucket is there, beside those the engine makes for each request.
pub const UPLOAD_ATTEMPTS_MAX: u32 = 4;

/// How long an upload that lies in the spool or in memory waits for a bucket that is away.
pub const UPLOAD_MAX_AGE: Duration = Duration::from_secs(600);

/// Entries of the local store with a recorded check in the bucket: 200 bytes each, 13 MiB.
pub const REPLICATION_CHECKS_MAX: usize = 65_536;

/// Bytes of all files in the spool: 64 fills, a busy node, of 256 MiB each. A disk with less room is full earlier.
pub const SPOOL_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// How long a blob is still served from the spool after it was put into the bucket.
pub const SPOOL_LINGER_TIME: Duration = Duration::from_secs(5);

// --- S3 client ---

/// Connecting to the bucket's engine.
pub const S3_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// One attempt at a small request to the bucket, or at the head of a large answer. Engines answer within milliseconds on
/// a local network and within a second across a continent.
pub const S3_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);

/// A small request to the bucket with all its attempts.
pub const S3_OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Attempts at one request, the first included: 0.1 s and 0.2 s of pauses, doubled when the engine says it is too much.
pub const S3_ATTEMPTS_MAX: u32 = 3;

/// Time in which no byte of a body from the bucket arrives while a client waits for it.
pub const S3_BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Trying the bucket out at start; after this the start goes on without it.
pub const S3_SELF_TEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes a second that an upload must make for its attempt to be let go on, beyond [`S3_ATTEMPT_TIMEOUT`].
pub const S3_UPLOAD_RATE_MIN: u64 = 1024 * 1024;

/// Putting the parts of a large object together: engines copy or check them first, AWS within minutes.
pub const S3_COMPLETE_TIMEOUT: Duration = Duration::from_secs(180);

/// Content from here on is uploaded in parts. One request takes 5 GiB at most, and begins anew when it fails.
pub const S3_MULTIPART_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Size of a part, all but the last being equal: at least 5 MiB on AWS. It grows where [`S3_PARTS_MAX`] of them would not do,
/// which is from 156 GiB on.
pub const S3_PART_BYTES: u64 = 16 * 1024 * 1024;
pub const S3_PARTS_MAX: u64 = 10_000;

/// Parts of one upload in flight at once.
pub const S3_PARTS_IN_FLIGHT: usize = 4;

/// Uploads in flight at once, further ones wait [`S3_UPLOAD_QUEUE_TIMEOUT`]. A part is streamed from its file through
/// [`S3_UPLOAD_BUFFER_BYTES`]: 8 uploads × 4 parts × (256 KiB + 400 KiB of a connection) are 21 MiB at most.
pub const S3_UPLOADS_MAX: usize = 8;
pub const S3_UPLOAD_QUEUE_TIMEOUT: Duration = Duration::from_secs(120);
pub const S3_UPLOAD_BUFFER_BYTES: usize = 256 * 1024;

/// Bodies of the bucket open at once, further ones wait [`S3_READ_QUEUE_TIMEOUT`]: 256 × 400 KiB of a connection's buffer are
/// 100 MiB at most, however slow the clients are. The wait is shorter than [`BUCKET_OPEN_TIMEOUT`], because a queue says nothing about
/// the engine.
pub const S3_READS_MAX: usize = 256;
pub const S3_READ_QUEUE_TIMEOUT: Duration = Duration::from_secs(3);

/// Bodies of at most [`HELD_WHOLE_BYTES_MAX`] open at once, manifests among them: no client is waited for while they are read, so
/// that they have slots of their own. 64 × 1 MiB are 64 MiB.
pub const S3_SHORT_READS_MAX: usize = 64;

/// The largest share of the slots for the bucket bodies of one registry, as a multiple of the free slots: three quarters.
pub const S3_READS_WEIGHT: u64 = 3;

/// Entries of an older store that are hashed at once.
pub const S3_HASHES_MAX: usize = 2;

/// How long a record of referrers in the bucket is not written again with the same content.
pub const S3_RECORD_REWRITE_INTERVAL: Duration = Duration::from_secs(600);

/// Writers of records of referrers to the bucket, and changes that wait for each: a few seconds' work. The changes of a registry
/// are written by one writer, in the order of its answers. Their bytes count in the memory budget.
pub const RECORD_WRITERS: usize = 16;
pub const RECORD_WRITES_WAITING_MAX: usize = 64;

/// Idle connections to the engine that are kept.
pub const S3_IDLE_CONNECTIONS_MAX: usize = 64;

/// How long a cached sidecar from the bucket is used. A missing sidecar is requested each time, because another
/// node may have stored it meanwhile.
pub const S3_SIDECAR_TTL: Duration = Duration::from_secs(60);

/// Sidecars kept in memory; at 1 KiB each 16 MiB.
pub const S3_SIDECARS_MAX: usize = 16_384;

/// Failures in a row that trip the bucket's circuit breaker, and its pause, which doubles up to the longest.
pub const S3_BREAKER_FAILURES: u32 = 5;
pub const S3_BREAKER_PAUSE_MIN: Duration = Duration::from_secs(1);
pub const S3_BREAKER_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A request to the bucket that is given up after this long counts as a failure of the bucket.
pub const S3_CANCELLED_FAILURE_AGE: Duration = Duration::from_secs(1);

/// Longest life of a URL with which anybody may read an object.
pub const S3_PRESIGNED_TTL_MAX: Duration = Duration::from_secs(60);

// --- Helper threads ---

/// Threads that do blocking work: one write per running fill, and as many more for lookups in the store, readers of files and
/// lookups of host names.
pub const BLOCKING_THREADS_MAX: usize = 2 * FILLS_MAX;

/// Lookups of host names that block a thread at once, of all registries together: half of [`BLOCKING_THREADS_MAX`]. One entry of
/// the configuration has at most 8 of them, so 32 entries whose name servers are silent leave none to another entry.
pub const NAME_LOOKUPS_MAX: usize = BLOCKING_THREADS_MAX / 2;

/// Lookups in the store that hold a blocking thread at once. A lookup takes microseconds on a disk that answers; in an older
/// store, the first lookup of an entry hashes its file. On a disk that does not answer, each lookup holds its thread, and readers
/// of open files need threads all the same.
pub const STORE_LOOKUPS_MAX: usize = BLOCKING_THREADS_MAX / 4;

// --- Relations between limits ---

const _: () = assert!(WITHHELD_BYTES < HELD_WHOLE_BYTES_MAX);
// A body held whole must fit the window, or it could never be verified without a disk.
const _: () = assert!(HELD_WHOLE_BYTES_MAX as usize <= FILL_WINDOW_BYTES);
const _: () = assert!(HEARTBEAT_TIMEOUT.as_secs() < CORE_ABORT_TIMEOUT.as_secs());
const _: () = assert!(CORE_ABORT_TIMEOUT.as_secs() < CORE_ABORT_TIMEOUT_IN_KERNEL.as_secs());
const _: () = assert!(READERS_CACHED_MAX + READERS_SMALL_MAX + READERS_LARGE_MAX <= BLOCKING_THREADS_MAX / 4);
// Readers and lookups together leave threads to fills and health checks.
const _: () = assert!(
    NAME_LOOKUPS_MAX + STORE_LOOKUPS_MAX + READERS_CACHED_MAX + READERS_SMALL_MAX + READERS_LARGE_MAX
        < BLOCKING_THREADS_MAX
);
// A pipe takes whole steps.
const _: () = assert!(COLD_READ_BYTES as usize <= PIPE_BYTES);
const _: () = assert!(FILL_WINDOW_KEPT_BYTES < FILL_WINDOW_BYTES);
const _: () = assert!(S3_READ_QUEUE_TIMEOUT.as_secs() < BUCKET_OPEN_TIMEOUT.as_secs());
// The limits of AWS.
const _: () = assert!(S3_PART_BYTES >= 5 * 1024 * 1024 && S3_MULTIPART_BYTES_MIN <= 5 * 1024 * 1024 * 1024);
