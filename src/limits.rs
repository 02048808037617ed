//! Every limit of the process, with the calculation behind each value.

use std::time::Duration;

// --- Connections ---

/// Default connection limit of the process, if there are enough file descriptors. At 4 KiB each,
/// idle connections take 80 MiB.
pub const CONNECTIONS_MAX: usize = 20_000;

/// Descriptors never used for connections: listeners, rings and wakers of a few cores, the helper
/// pool, logs. Connections get four fifths of the other descriptors. Open files, pipes and upstream
/// connections get one fifth.
pub const DESCRIPTORS_RESERVED: usize = 128;

/// Lowest connection limit, even with few descriptors.
pub const CONNECTIONS_MIN: usize = 16;

/// Connections of one core. A core's ring can complete this many operations at once (one poll per
/// connection).
pub const CONNECTIONS_PER_CORE_MAX: usize = 16_384;

/// Connections accepted in a row before a core serves existing connections.
pub const ACCEPTS_PER_TURN: usize = 256;

/// Idle connections closed by one eviction, at most, and the largest fraction of the connection
/// limit (a divisor).
pub const EVICTIONS_AT_ONCE_MAX: usize = 64;
pub const EVICTIONS_AT_ONCE_DIVISOR: usize = 32;

/// Idle time after which a connection may be evicted for a new connection, regardless of earlier
/// activity.
pub const IDLE_EVICTION_AGE: Duration = Duration::from_secs(1);

/// Age of an incomplete request head after which its connection may be evicted, if no idle
/// connection exists.
pub const SLOW_HEAD_EVICTION_AGE: Duration = Duration::from_secs(2);

/// Accepted sockets in the handoff queue of a core. Further connections stay on the accepting core.
pub const HANDOFF_QUEUE_MAX: usize = 256;

// --- Logged conditions ---

/// Time without a new event after which a logged condition has ended.
pub const CONDITION_QUIET_TIME: Duration = Duration::from_secs(10);

// --- Log ---

/// Size at which a core hands its access log lines to the log thread: some 100 lines. A sweep hands
/// over smaller batches.
pub const LOG_BATCH_BYTES: usize = 32 * 1024;

/// Bytes that may wait for the log thread. Access log lines may take 64 batches. Events may fill
/// twice as much, so that a burst of requests does not displace the explanation of the burst.
pub const LOG_REQUEST_BYTES_MAX: usize = 64 * LOG_BATCH_BYTES;
pub const LOG_EVENT_BYTES_MAX: usize = 2 * LOG_REQUEST_BYTES_MAX;

/// Messages of any size that may wait for the log thread. 8,192 events of 512 bytes are
/// [`LOG_EVENT_BYTES_MAX`].
pub const LOG_MESSAGES_MAX: usize = 8_192;

/// Longest logged request target and header field, in characters.
pub const LOG_TARGET_CHARS_MAX: usize = 1_024;
pub const LOG_FIELD_CHARS_MAX: usize = 256;

/// Longest wait for the log thread at the end of the process. A pipe with an active reader takes the
/// whole queue in some ten milliseconds.
pub const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

// --- Memory budget ---

/// Memory counted for an in-flight response: bytes in the kernel's socket buffer, and memory of the
/// process.
pub const RESPONSE_BYTES: u64 = 256 * 1024;

/// Smallest memory budget: 16 fills.
pub const MEMORY_BUDGET_MIN: u64 = 64 * 1024 * 1024;

// --- Request heads ---

/// Initial size of a connection's receive buffer, in bytes. Heads of docker, containerd and podman
/// have 300 to 900 bytes.
pub const RECEIVE_BUFFER_BYTES: usize = 1_024;

/// Time from the first byte of a request head to the last.
pub const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the first request of a client that connected at the start of a shutdown. Enough for a
/// long-distance round trip with a handshake.
pub const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

// --- TLS ---

/// Time from the first byte of a TLS handshake, or from the accepted connection, to the end of the
/// handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that TLS handshakes may use a core before other connections run. A handshake operation
/// takes 0.2 ms with an ECDSA key and 5 ms with the largest RSA keys, so a turn takes 2 to 7 ms.
pub const HANDSHAKE_TURN_TIME: Duration = Duration::from_millis(2);

/// Cached sessions of TLS 1.2 clients without tickets. About 1 KiB each, more with client
/// certificates.
pub const TLS_SESSIONS_MAX: usize = 8_192;

/// Bytes that a TLS session buffers before the socket must accept them: four full records. Every
/// stalled client holds this many bytes. `scripts/bench.sh quick tls-1g`, rebuilt for each value,
/// shows the throughput for 1 GiB relative to this value. Medians of noisy rounds were 0.87 to 0.92
/// with 16 KiB and 0.96 to 1.05 with 32 KiB. With 128 KiB they were 1.02 to 1.2, and with 256 KiB
/// 0.95 to 1.24.
pub const TLS_PENDING_BYTES: usize = 64 * 1024;

/// Records after which a kTLS session accepts no further request, because its key is near its
/// limit. An AES-GCM key may encrypt 2^24.5 full records (RFC 8446, 5.5), and the kernel cannot
/// change keys. 2^23 records are 128 GiB in full records, or four million small responses.
/// In-flight responses may use 2^23 more records. At the second limit, the key is exhausted and
/// responses are cut off.
pub const KTLS_RECORDS_SOFT_MAX: u64 = 1 << 23;
pub const KTLS_RECORDS_MAX: u64 = 1 << 24;

/// Most consecutive reads without plaintext. A full record takes five reads. A client with only
/// empty records never sends a request.
pub const TLS_READS_MAX: usize = 64;

// --- Connection deadlines ---

/// Interval at which each core checks the deadlines of its connections and flushes log lines.
pub const CONNECTION_SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// Idle time between requests on a kept-alive connection.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);

/// Longest time in which a client accepts no byte of a response.
pub const SEND_STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Minimum throughput of a client, in bytes per second. Measured over [`SEND_STALL_TIMEOUT`] of
/// waiting for the client.
pub const SEND_RATE_MIN: u64 = 1024;

/// Interval of the checks whether a waiting client is still connected. The second value is the
/// longest wait for a client with a closed sending side. A client may close its sending side and
/// still read the response, but docker, containerd and podman never do.
pub const CLIENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes read and discarded after a rejection, so that the client receives the response instead of
/// a reset.
pub const LINGER_BYTES_MAX: usize = 64 * 1024;
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

// --- Health ---

/// Interval of each core's heartbeat and loop delay samples. Four wake-ups per second cost nothing
/// compared to the equally frequent sweep.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(250);

/// Heartbeat interval of the helper pool and of the store. Each heartbeat costs a task and a
/// thread.
pub const HELPER_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Interval of the checks of the heartbeat monitor.
pub const WATCHDOG_INTERVAL: Duration = Duration::from_secs(1);

/// Time without a heartbeat after which a core counts as hanging: twenty ticks. No operation of a
/// core takes a hundredth of this time.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without a heartbeat after which the process aborts. Clients have given up by then.
pub const CORE_ABORT_TIMEOUT: Duration = Duration::from_secs(30);

/// Time without a heartbeat after which the process aborts if the core is blocked inside the
/// kernel. The process could not end sooner anyway, and a restart would use the same disk.
pub const CORE_ABORT_TIMEOUT_IN_KERNEL: Duration = Duration::from_secs(600);

/// Interval at which each core reports its longest loop delay.
pub const DELAY_REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Reports of loop delays that the metrics cover: one minute, the default scrape interval of
/// Prometheus.
pub const DELAY_REPORTS_KEPT: usize = 6;

// --- systemd ---

/// Sockets that systemd may pass.
pub const INHERITED_SOCKETS_MAX: usize = 64;

/// Timeout of a message to the systemd socket.
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

// --- io_uring ---

/// Attempts to set up a ring if the kernel refuses to lock memory, and the interval between
/// attempts. The kernel releases the memory of closed rings with a short delay.
pub const RING_SETUP_ATTEMPTS_MAX: u32 = 10;
pub const RING_SETUP_RETRY_INTERVAL: Duration = Duration::from_millis(20);

// --- HTTP/2 ---

/// In-flight requests of one HTTP/2 connection, as stated in the SETTINGS frame.
pub const H2_STREAMS_MAX: u32 = 100;

/// Requests of one HTTP/2 connection that a core accepts before other tasks run: a response to each
/// stream, in less than a millisecond. A client that reuses its fields sends 3,000 requests in 64 KiB.
pub const H2_REQUESTS_PER_TURN: u32 = H2_STREAMS_MAX;

/// Request body bytes that a client may send before the server reads the body. No supported request
/// needs a body.
pub const H2_STREAM_WINDOW_BYTES: u32 = 64 * 1024 - 1;
pub const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Longest delay of a response until the rest of the request body arrives. No request needs a body,
/// but body errors can be reported only before the response.
pub const REQUEST_BODY_TIMEOUT: Duration = Duration::from_millis(250);

/// Size of the header fields of one HTTP/2 request, each counted with 32 extra bytes (RFC 9113,
/// 6.5.2).
pub const H2_HEADER_LIST_BYTES_MAX: u32 = 32 * 1024;

/// Body bytes read and not yet sent, of one stream and of all streams of a connection.
pub const H2_STREAM_UNSENT_BYTES_MAX: usize = 64 * 1024;
pub const H2_CONNECTION_UNSENT_BYTES_MAX: usize = 1024 * 1024;

/// Body bytes of all streams of a connection in helper threads: being read, or waiting for room in
/// the unsent bytes. Enough for eight streams at once.
pub const H2_CONNECTION_READ_BYTES_MAX: usize = 8 * H2_STREAM_UNSENT_BYTES_MAX;

/// Encoded frames of a connection waiting for the socket. Above this limit, the connection encodes
/// and reads nothing.
pub const H2_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Reset streams after which the connection is closed. The first limit counts streams reset before
/// the server saw the request. The second limit counts streams reset by the server after client
/// errors.
pub const H2_UNSEEN_RESETS_MAX: usize = 20;
pub const H2_LOCAL_RESETS_MAX: usize = 256;

/// Streams that a client may reset: a hundred per second, and a thousand in a burst.
pub const H2_RESETS_PER_SECOND: u32 = 100;
pub const H2_RESETS_AT_ONCE: u32 = 1_000;

/// Frames beyond the normal number for the client's requests and the server's DATA frames. Counted
/// frames are PING, SETTINGS, PRIORITY, WINDOW_UPDATE, CONTINUATION, DATA and unknown types.
pub const H2_IDLE_FRAMES_PER_SECOND: u32 = 100;
pub const H2_IDLE_FRAMES_AT_ONCE: u32 = 1_000;

/// Frames allowed in addition for each request and for each sent DATA frame. A request needs a
/// priority and a window update. A DATA frame needs window updates of the stream and the
/// connection. Both numbers are doubled. The credit accumulates up to the need of a thousand large
/// in-flight responses.
pub const H2_FRAMES_PER_REQUEST: u32 = 8;
pub const H2_FRAMES_PER_DATA: u32 = 4;
pub const H2_FRAME_CREDIT_MAX: u32 = 100_000;

// --- Sending content ---

/// Largest object served from a core's memory with one `send`. Above this size, `sendfile` was
/// faster: 1.27 instead of 1.12 times nginx at 64 KiB and 256 connections.
pub const MEMORY_OBJECT_BYTES_MAX: u64 = 32 * 1024;

/// Entries of a core's memory cache, of any size. Bounds the index for tiny objects.
pub const MEMORY_OBJECTS_MAX: usize = 65_536;

/// Smallest body sent through a pipe (`splice`). Smaller bodies use `sendfile`.
pub const SPLICE_BYTES_MIN: u64 = 1024 * 1024;

/// Requested capacity of a pipe, and step size of the residency check.
pub const PIPE_BYTES: usize = 1024 * 1024;

/// Idle pipes kept by a core. 64 × 1 MiB is address space, not memory, because pipes hold
/// references to pages.
pub const IDLE_PIPES_MAX: usize = 64;

/// Pipes of a core. Further responses use no pipe. A stalled client keeps its pipe, and each pipe
/// takes two descriptors. 256 × 2 are 512 descriptors per core. Without the limit, thousands of
/// stalled clients would take the slots of as many connections.
pub const PIPES_MAX: usize = 256;

const _: () = assert!(IDLE_PIPES_MAX <= PIPES_MAX);

/// Bytes that one connection may send, and the time that its calls may take, before other
/// connections of the core run. A turn ends after the call that exceeds one of both. A call moves
/// at most [`PIPE_BYTES`], in about 0.1 ms.
pub const SEND_TURN_BYTES: u64 = 4 * 1024 * 1024;
pub const SEND_TURN_TIME: Duration = Duration::from_micros(250);

/// Bytes read at once from a file with missing pages, and sent in one turn: 40 us of a core. Small
/// hits next to such a body took 1.3 times as long as alone. With turns of [`SEND_TURN_BYTES`],
/// they took 8 times as long.
pub const COLD_READ_BYTES: u64 = 256 * 1024;

/// Time for which a core remembers that the page cache holds every page of a window. A hit of 1 MiB
/// checked each time took 1.1 times as long. Pages that disappear sooner may stall the core for a
/// read.
pub const RESIDENCY_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Time in which helper threads read every file, after the kernel reclaimed pages before a client
/// read them. If memory is short, cached pages may disappear at any moment.
pub const MEMORY_PRESSURE_TIME: Duration = Duration::from_secs(5);

/// Helper threads that may read files for clients at once, per class. The first class is steps with
/// pages probably in memory. The other classes are steps that wait for a disk, of small bodies and
/// of large bodies. A slow disk blocks at most these 96 of [`BLOCKING_THREADS_MAX`] (896) threads.
/// The other threads serve lookups and health checks.
pub const READERS_CACHED_MAX: usize = 32;
pub const READERS_SMALL_MAX: usize = 32;
pub const READERS_LARGE_MAX: usize = 32;

/// Longest wait of a step for a reader thread. 1,000 clients of a 1 MB/s disk need 256 s for one
/// step each.
pub const READER_QUEUE_TIMEOUT: Duration = Duration::from_secs(300);

/// Unsent bytes in the kernel for a client with an open range request. Such a client commonly
/// closes the connection, or resets the stream, after a part. For HTTP/2, the limit applies to the
/// connection from its first open range on.
pub const OPEN_RANGE_UNSENT_BYTES: u32 = 128 * 1024;

/// Received but unread bytes of an open range in an HTTP/2 client, and the time to grant window for
/// some of them. The kernel's 128 KiB and [`H2_SEND_BUFFER_BYTES`] come in addition. A slower
/// client gets twice the bytes. A client that never granted window gets all bytes allowed by its
/// window.
pub const H2_OPEN_RANGE_UNREAD_BYTES: u64 = 256 * 1024;
pub const H2_OPEN_RANGE_TIMEOUT: Duration = Duration::from_millis(200);

/// Bytes encrypted on the core in one turn: 0.3 to 0.6 ms.
pub const TLS_SEND_TURN_BYTES: u64 = 1024 * 1024;

// --- Open files ---

/// Largest file that a core closes. Larger files are closed by a separate thread. The close of an
/// unnamed file takes 55 to 120 ms per GiB, so this size takes 1 to 2 ms.
pub const CLOSE_AT_ONCE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Open files of committed blobs kept by a core. All cores together get a tenth of the descriptors,
/// within these bounds per core.
pub const OPEN_FILES_PER_CORE_MAX: usize = 1_024;
pub const OPEN_FILES_PER_CORE_MIN: usize = 16;

// --- Manifests, lists and response cache ---

/// Largest accepted manifest (the specification requires at least 4 MiB).
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most objects that a manifest may name for a list of the content. The shortest entry takes 83
/// bytes, so a manifest of 4 MiB could name 50,000. Real manifests name at most a few hundred.
pub const MANIFEST_LINKS_MAX: usize = 10_000;

/// Largest accepted list (tags, referrers): 30,000 of the longest tags.
pub const LISTING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Time for which the response cache serves a list without revalidation. Long enough for a burst of
/// builds, short enough to make a pushed tag visible soon.
pub const LISTING_TTL: Duration = Duration::from_secs(15);

/// Bytes of cached lists, shared by all cores: four of the largest, thousands of ordinary ones.
pub const LISTINGS_BYTES_MAX: u64 = 4 * LISTING_BYTES_MAX as u64 + 64 * 1024;

/// Cached lists, of any size.
pub const LISTINGS_MAX: usize = 4_096;

/// Records of referrers in a directory, and records of one process in a bucket (list pages and 404
/// responses), of any size. Enough for three records for each of 5,000 images. The table of names
/// takes 400 bytes per record, 7 MiB.
pub const RECORDS_MAX: usize = 16_384;

/// Bytes of all records of referrers: 64 of the largest. 16,384 records of ordinary size (1 to 4
/// KiB) are 64 MiB.
pub const RECORDS_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Largest record: a list and its metadata (two queries of at most 2 KiB).
pub const RECORD_BYTES_MAX: u64 = LISTING_BYTES_MAX as u64 + 16 * 1024;

/// Repositories with a recorded time of the last referrers list: 300 bytes each, 1.2 MiB.
pub const LISTING_REPOSITORIES_MAX: usize = 4_096;

/// Time for which a 404 is cached: the time between two tools in one pipeline. A push after a 404
/// becomes visible after at most this time.
pub const ABSENCE_TTL: Duration = Duration::from_secs(5);

/// Cached 404s, shared by all cores, and their bytes: 700 bytes each, 3 MiB. With a query of 2 KiB,
/// a 404 takes 3 KiB.
pub const ABSENCES_MAX: usize = 4_096;
pub const ABSENCES_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Tags per page in requests to an upstream, for any page size of the client. The maximum of the
/// large registries.
pub const TAGS_PER_PAGE_MAX: u64 = 1_000;

/// Caches in the `Via` field of a request. A request with more caches counts as a loop.
pub const VIA_MAX: usize = 10;

// --- Fills ---

/// Largest body verified before its first byte is sent.
pub const HELD_WHOLE_BYTES_MAX: u64 = 1024 * 1024;

/// Last bytes of a larger body, withheld until the digest is verified.
pub const WITHHELD_BYTES: u64 = 64 * 1024;

/// Bytes of a fill in memory: not yet written to the disk, or kept for followers near the end. 256
/// fills × 4 MiB are 1 GiB, and [`RESERVED_FETCHES_MAX`] may add as much. 64 fills, a busy node,
/// are 256 MiB. A stored fill releases its window. A fill that could not be stored keeps its window
/// until the last follower has read everything.
pub const FILL_WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Bytes kept in a fill's window for followers after the write to the disk.
pub const FILL_WINDOW_KEPT_BYTES: usize = 2 * 1024 * 1024;

/// Most bytes that a follower reads from the window at once.
pub const FOLLOWER_BYTES_MAX: usize = 256 * 1024;

/// Longest time without progress of a fill's hasher, which waits for a free thread alone.
pub const HASH_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for which a disk may delay one fill, beyond the time earned by [`FILL_DISK_RATE_MIN`].
/// Afterwards the fill continues without the disk.
pub const FILL_DISK_WAIT_MAX: Duration = Duration::from_secs(1);

/// Bytes per second that a disk must accept for a fill to wait. Below the slowest disk used for an
/// image cache, and above the rate at which clients give up.
pub const FILL_DISK_RATE_MIN: u64 = 32 * 1024 * 1024;

/// Pause after a failed write before the next fill uses the disk again.
pub const STORE_RETRY_INTERVAL: Duration = Duration::from_secs(30);

// --- Fetch slots ---

/// Concurrent fetches with a window: blobs, manifests and lists. Further fetches wait for
/// [`FETCH_QUEUE_TIMEOUT`]. A registry takes at most half of a class's slots, and fewer if other
/// registries hold some. See `fairness/shares.rs`.
pub const FILLS_MAX: usize = BLOB_FETCHES_MAX + MANIFEST_FETCHES_MAX;
pub const BLOB_FETCHES_MAX: usize = 160;
pub const MANIFEST_FETCHES_MAX: usize = 96;
pub const FETCH_QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

/// Slots per fetch class with few descriptors. With fewer slots, one pull would wait for another.
pub const FETCHES_MIN: u64 = 8;

/// Additional fetches per class for each registry with a configuration entry, so that no other
/// registry can take its last slot. Clients pull three blobs at once. All registries together run
/// at most the second number of additional fetches, not counting the first fetch of each registry.
/// The configuration bounds the number of first fetches. For both classes together, 256 windows
/// take at most 1 GiB of the memory budget.
pub const RESERVED_FETCHES_MAX: u64 = 4;
pub const RESERVED_FETCHES_TOTAL_MAX: u64 = 128;

/// Part of the memory budget, as a divisor, reserved for registries with a configuration entry and
/// little memory in use. Four windows of the smallest budget, 128 windows of a 2 GiB budget.
pub const RESERVED_MEMORY_DIVISOR: u64 = 4;

/// Concurrent revalidations of held copies. A revalidation has no window; each takes a connection,
/// 64 KiB.
pub const BACKGROUND_FETCHES_MAX: usize = 256;

/// Longest wait of a revalidation for its slot. Afterwards the cache serves the held copy.
pub const BACKGROUND_QUEUE_TIMEOUT: Duration = Duration::from_secs(2);

/// Waiting fetches of one registry, at 300 bytes each. Fetches of an unlisted registry are also
/// rejected while all registries together have four times as many waiting fetches.
pub const FETCHES_WAITING_MAX: usize = 1_024;

/// Waiting fetches of all registries without a configuration entry and without good content so far.
pub const UNPROVEN_WAITING_MAX: usize = 1_024;

/// Recorded registries without a configuration entry and with good content: 100 bytes each.
pub const PROVEN_REGISTRIES_MAX: usize = 1_024;

// --- Deserted and slow fetches ---

/// Interval at which the cache checks the followers and the speed of a fetch.
pub const FETCH_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time without a client after which a fetch counts as deserted. Bridges the gap between two
/// requests of a resuming client.
pub const DESERTED_GRACE_TIME: Duration = Duration::from_secs(1);

/// Longest wait of a new fill for its first client, still on its way from a core.
pub const FIRST_CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes per second that a fill without clients must receive, measured over [`FILL_RATE_WINDOW`]. A
/// layer of 100 MiB arrives in less than seven minutes. A slower fill costs more than it can save.
pub const FILL_RATE_MIN: u64 = 256 * 1024;
pub const FILL_RATE_WINDOW: Duration = Duration::from_secs(10);

/// Longest time for which a fill continues without clients: 150 MiB at [`FILL_RATE_MIN`], 60 GiB at
/// 100 MiB/s.
pub const DESERTED_FILL_TIMEOUT: Duration = Duration::from_secs(600);

/// Bytes that a fill may receive without clients: the rest of the largest layers. The limit is
/// lower without a length from the upstream, because such a body may be endless.
pub const DESERTED_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
pub const DESERTED_UNSIZED_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Time for which a manifest or list fetch continues without a waiting client.
pub const DESERTED_MANIFEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Time from the head of a manifest or list to its end: [`SMALL_BODY_TIMEOUT`], plus the time
/// earned by [`SMALL_BODY_RATE_MIN`]. The largest (4 MiB) may take 94 seconds, 10 KiB half a
/// minute.
pub const SMALL_BODY_TIMEOUT: Duration = Duration::from_secs(30);
pub const SMALL_BODY_RATE_MIN: u64 = 64 * 1024;

// --- Disk space of fills ---

/// Steps in which disk space is reserved for arriving bytes. A step is as large as the bytes
/// present, within these bounds.
pub const RESERVE_STEP_MIN: u64 = 64 * 1024;
pub const RESERVE_STEP_MAX: u64 = 32 * 1024 * 1024;

/// Disk space for the unfinished blobs of one registry, as a multiple of the remaining free space.
/// Seven eighths of the free space for blobs with a stated length, half for others.
pub const ROOM_WEIGHT_SIZED: u64 = 7;
pub const ROOM_WEIGHT_UNSIZED: u64 = 1;

// --- Eviction ---

/// Age of an object, and time since its last use, before an eviction may remove the object. The pull
/// of an image takes less.
pub const EVICTION_AGE_MIN: Duration = Duration::from_secs(600);

/// Minutes by which the index may know times too early: a minute by rounding for both times, and
/// [`USE_REPORT_INTERVAL`] for the last use.
pub const STORED_LAG_MINUTES: u32 = 1;
pub const USED_LAG_MINUTES: u32 = 2;

/// Length of the windows of time, from the storage of an object, in which all uses count as one. The
/// ranges and retries of one client, and the hosts of one rollout, are one use.
pub const REUSE_AGE_MIN: Duration = Duration::from_secs(600);

/// The interval between uses that the eviction assumes of a new object. Of the values from 1 h to
/// 24 h, this value had the best hit ratios in the simulator.
pub const NEW_USE_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// The part of the bytes of all blobs that blobs of one use may take, as a divisor.
pub const PROBATION_SHARE: u64 = 10;

/// Largest blob that counts as metadata. Image configs are smaller.
pub const METADATA_BLOB_BYTES_MAX: u64 = 64 * 1024;

/// The part of the bound for metadata, as a divisor, and the smallest budget. In a small store, the
/// budget is a quarter of the bound.
pub const METADATA_SHARE: u64 = 20;
pub const METADATA_BYTES_MIN: u64 = 256 * 1024 * 1024;

/// Free space that the store leaves to others by default: a part of the file system, as a divisor,
/// and at least [`FREE_BYTES_MIN`]. On a file system below 20 GiB, the least is a tenth.
pub const FREE_SHARE: u64 = 20;
pub const FREE_BYTES_MIN: u64 = 2 * 1024 * 1024 * 1024;
pub const FREE_SHARE_OF_SMALL: u64 = 10;

/// Free inodes that the store leaves, as a divisor of all inodes.
pub const FREE_INODES_SHARE: u64 = 20;

/// The part of the bound for the largest object by default, as a divisor.
pub const OBJECT_SHARE: u64 = 2;

/// Room that an eviction in the background makes, as a divisor of the bound, and the fill level at
/// which it starts: one fiftieth below the bound.
pub const EVICTION_STEP_SHARE: u64 = 20;
pub const EVICTION_START_SHARE: u64 = 50;

/// The cost of a read of the bucket, as a divisor of the cost of a download from a registry. The bucket
/// is near, and its reads count against no limit of a registry.
pub const BUCKET_COST_SHARE: u64 = 16;

/// Time of an eviction before other ingests may evict: some 500 objects.
pub const EVICTION_SLICE_TIME: Duration = Duration::from_millis(50);

/// Time after an eviction in which the file system may still free the blocks: cores close their files
/// within two sweeps, and the close of 10 GiB takes a second.
pub const RELEASE_TIME: Duration = Duration::from_secs(1);

/// Interval of the checks for room in the background.
pub const ROOM_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Interval of the log lines about evictions.
pub const EVICTION_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Time between two writes of the last use of an object to the disk, in minutes, and the objects per
/// check: at most 500 writes per second. A million objects take 33 minutes.
pub const USE_SAVE_INTERVAL_MINUTES: u32 = 60;
pub const USES_CHECKED_AT_ONCE: u32 = 1_000;

/// Time for the writes of the last uses at the end of the process: some 500,000 writes.
pub const USES_SAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Time after which a core reports another use of the same response or file. With
/// [`MEMORY_OBJECTS_MAX`], a core reports at most 1,100 uses per second.
pub const USE_REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Reported uses that wait for the index: every object of [`MEMORY_OBJECTS_MAX`] once. Further
/// reports are dropped.
pub const USES_QUEUED_MAX: usize = MEMORY_OBJECTS_MAX;

/// Removed content that cores can look up. A core that has missed more forgets all its responses.
pub const REMOVALS_MAX: usize = 16_384;

/// Entries of a directory that the scan sorts at once: 200 bytes each, 6 MiB.
pub const SCAN_PART_ENTRIES: usize = 32_768;

/// Pins of a store: more than the tags that operators name one by one. The file has at most 5 MiB.
pub const PINS_MAX: usize = 10_000;

// --- Verification of stored content ---

/// Pinned images with removed content that wait for the fetch of it. More come from a failing disk.
pub const DAMAGED_PINS_MAX: usize = 1_000;

/// Bytes per second of a verification without a rate of its own: a sixth of a slow SSD. A store of 1
/// TiB takes six hours.
pub const VERIFY_RATE_DEFAULT: u64 = 50 * 1024 * 1024;

/// Bytes of one read of a verification. A stop waits for one read.
pub const VERIFY_STEP_BYTES: usize = 256 * 1024;

/// Bytes that each object counts for in the rate, in addition to its content: opening two small files
/// costs a disk as much time as a read of this size.
pub const VERIFY_OBJECT_BYTES: u64 = 64 * 1024;

/// Names of objects that a verification of the whole store takes from the index at once: 100 bytes
/// each. Each part takes two walks over the index, some 0.03 s for a million objects.
pub const VERIFY_PART_OBJECTS: usize = 16_384;

/// Objects of the index that a walk visits before other threads can use the index: some 2 ms.
pub const INDEX_SLICE_OBJECTS: u32 = 65_536;

/// Time between two slices, in which a waiting thread gets the lock of the index. A walk over a million
/// objects has 16 slices, a copy 123.
pub const INDEX_SLICE_PAUSE: Duration = Duration::from_micros(100);

/// Objects of the index that are copied, or checked before a removal, before other threads can use the
/// index: some 1 ms. `scripts/store.sh` measures 1,150,000 objects on a machine with five times as many
/// threads as CPUs. Other threads waited at most 12 ms for the index during a copy, and 16 ms during a
/// check. The list of images and the plan took 4.8 s, and a choice of victims 3.8 s.
pub const INDEX_COPY_OBJECTS: u32 = 8_192;

/// Changes of the index that a job with slices can miss and still continue: 64 KiB. A copy of a
/// million objects takes less than a second, and few disks commit or remove as many objects meanwhile.
pub const INDEX_CHANGES_MAX: usize = 16_384;

/// Attempts to create the directory of a repository, which another thread may remove with the last
/// content of the repository. A second removal needs content that was stored meanwhile, so the second
/// attempt almost always succeeds.
pub const DIRECTORY_ATTEMPTS: usize = 3;

/// Registries with figures of their own in the index, and on each core: 0.4 KiB each, so at most 2 MiB
/// each. A client can pull from any public registry. The index counts the registries of the
/// configuration first.
pub const REGISTRIES_COUNTED_MAX: usize = 4_096;

/// Registries with labels of their own in the metrics: from the configuration, and further registries.
/// The series are at most 4,000 with some 25 series for each registry of 160 that are in use.
pub const METRICS_CONFIGURED_REGISTRIES_MAX: usize = 128;
pub const METRICS_FURTHER_REGISTRIES_MAX: usize = 32;

/// Different sets of registries that have the same blobs: 0.2 KiB each, so at most 4 MiB.
pub const INDEX_SOURCE_SETS_MAX: usize = 16_384;

/// Damaged and unreadable objects with details in a report, each, and images of one damaged object.
/// With 100 bytes for each image, at most 10 MiB. The counts have no bound.
pub const VERIFY_DETAILS_MAX: usize = 1_000;
pub const DAMAGED_IMAGES_MAX: usize = 100;

/// Time from the end of the scan to the first read of the scrub. The first minute after a start has
/// the most misses.
pub const SCRUB_START_DELAY: Duration = Duration::from_secs(60);

/// Shortest pause between two passes of the scrub.
pub const SCRUB_PAUSE_MIN: Duration = Duration::from_millis(100);

/// Time between two writes of the scrub's progress. A kill repeats at most the reads of this time.
pub const SCRUB_SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// Longest wait for the scrub at the end of the process: one read of a busy disk, and one write.
pub const SCRUB_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Blobs that are hashed before their first response at once, with `VERIFY_ON_OPEN=first`.
pub const FIRST_HASHES_MAX: usize = 8;

/// Time for such a hash: a fixed time, and the time of the content at a rate in bytes per second.
/// Afterwards the request is a miss, and the hash continues.
pub const FIRST_HASH_TIMEOUT: Duration = Duration::from_secs(5);
pub const FIRST_HASH_RATE_MIN: u64 = 50 * 1024 * 1024;

// --- Prefetch ---

/// Blobs of one image that a prefetch fetches at once. Clients fetch three to five blobs at once, and
/// registries limit the rate of a connection.
pub const PREFETCH_BLOBS_MAX: usize = 6;

/// Bytes of all blobs of an image with a prefetch. A larger image has a prefetch of its config.
pub const PREFETCH_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Images with a prefetch at once. 64 × [`PREFETCH_BLOBS_MAX`] is more than [`BLOB_FETCHES_MAX`], so
/// further images would get no slot.
pub const PREFETCH_IMAGES_MAX: usize = 64;

/// Manifests of HEAD requests for which a GET request starts a prefetch, and the time for that request.
/// Each entry has some 200 bytes. A client sends GET at once after HEAD.
pub const PREFETCH_HEADS_MAX: usize = 1_024;
pub const PREFETCH_HEADS_TTL: Duration = Duration::from_secs(60);

/// The part of a registry's request budget that fetches without clients leave to clients, in percent
/// and in requests. The larger one counts.
pub const BUDGET_RESERVE_PERCENT: u64 = 30;
pub const BUDGET_RESERVE_REQUESTS_MIN: u64 = 10;

// --- Loads of images ---

/// Images of a load, and of a list of images. A report has some 300 bytes for each.
pub const LOAD_IMAGES_MAX: usize = 10_000;

/// Tags of one repository that a load fetches by a range or a pattern, and such searches of a load: at
/// most [`LOAD_IMAGES_MAX`] images.
pub const LOAD_TAGS_MAX: usize = 1_000;
pub const LOAD_TAG_SEARCHES_MAX: usize = 10;
const _: () = assert!(LOAD_TAGS_MAX * LOAD_TAG_SEARCHES_MAX <= LOAD_IMAGES_MAX);

/// Pages of tags that a search requests: 100,000 tags, or fewer from a registry with small pages. The
/// largest repositories of Docker Hub have some 10,000 tags, with 100 on a page.
pub const LOAD_TAG_PAGES_MAX: usize = 100;

/// Images that a load pulls at once, and blobs of one image at once. Registries limit the rate of a
/// connection, so 24 fetches use a fast link, and stay below [`BLOB_FETCHES_MAX`].
pub const LOAD_CONCURRENCY_DEFAULT: usize = 4;
pub const LOAD_BLOBS_MAX: usize = 6;

/// Upper bound of the images at once: 96 blobs leave slots to clients.
pub const LOAD_CONCURRENCY_MAX: usize = 16;
const _: () = assert!(LOAD_CONCURRENCY_MAX * LOAD_BLOBS_MAX < BLOB_FETCHES_MAX);

/// Pause of a load while the cache has no room for a further fetch.
pub const LOAD_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Further attempts of a load to fetch an object after the cache has ended the fetch, for example for
/// the slot of another fetch.
pub const LOAD_RETRIES_MAX: usize = 3;

/// Interval at which a load checks whether it was canceled.
pub const LOAD_STOP_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Pages of the referrers of one manifest that a load follows. A page has at most [`LISTING_BYTES_MAX`],
/// so 16 pages have more than 100,000 entries of some 500 bytes.
pub const LOAD_REFERRERS_PAGES_MAX: usize = 16;

/// Referrers of one image that a load fetches. Build systems attach a few to each manifest. 10,000
/// digests with their sizes are some 1 MiB.
pub const LOAD_REFERRERS_MAX: usize = 10_000;

/// References that clients requested in vain. A reference has at most some 500 bytes, so all references
/// have at most 6 MiB in memory, and as many in their file.
pub const MISSING_REFERENCES_MAX: usize = 10_000;

/// The shortest time between two writes of these references. A kill loses the references of this time.
pub const MISSING_WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Repositories of a registry in which an air-gapped cache looks for a manifest by digest. Each costs one read
/// of at most [`MANIFEST_BYTES_MAX`]. A base image of a company is in some 20 repositories.
pub const MANIFEST_PLACES_MAX: usize = 64;

/// Reasons why one image is not ready for an air gap. An image has some 100 layers at most, and a list
/// has [`LOAD_IMAGES_MAX`] images.
pub const READINESS_PROBLEMS_MAX: usize = 20;

/// Indexes within indexes.
pub const INDEX_DEPTH_MAX: usize = 4;

/// Platforms in a selection. The image with the most platforms has some 20.
pub const PLATFORMS_MAX: usize = 64;

/// Platforms that the index of a store distinguishes. Registries have some 50 different ones.
pub const PLATFORMS_KNOWN_MAX: usize = 1_000;

/// Bytes of a list of images. The pods of a cluster with 5,000 pods have some 50 MB as JSON.
pub const IMAGE_LIST_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Nested values in a list of images. Templates of pods in lists of custom resources have some 20 levels.
pub const IMAGE_LIST_DEPTH_MAX: usize = 64;

/// Mistakes in a list of images that are named. The others are counted.
pub const IMAGE_LIST_MISTAKES_MAX: usize = 100;

/// Body of a request for a load: [`LOAD_IMAGES_MAX`] names of 400 bytes.
pub const LOAD_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

// --- Bundles ---

/// Blobs of a bundle, with the blobs of its base: 450 GB of blobs of 15 MB. An export takes some 1 KiB for
/// each, so 30 MiB, and 20 MiB for chunks ([`EXPORT_CHUNKS_WAITING_MAX`]).
pub const BUNDLE_BLOBS_MAX: usize = 30_000;

/// Images of a bundle. Names and descriptors have some 500 bytes for each.
pub const BUNDLE_IMAGES_MAX: usize = LOAD_IMAGES_MAX;

/// Bytes of `bundle.json`, and of the other descriptions in a bundle: [`BUNDLE_BLOBS_MAX`] blobs of 130
/// bytes, and [`BUNDLE_IMAGES_MAX`] images.
pub const BUNDLE_JSON_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// Volumes of a bundle. Names of volumes end in three digits.
pub const BUNDLE_VOLUMES_MAX: usize = 1_000;

/// Bytes of one read of an export, and of one step of its hash.
pub const EXPORT_CHUNK_BYTES: usize = 1024 * 1024;

/// Chunks that wait for a hash thread. With a thread for the blob and one for the volume, an export has
/// at most 2 * (8 + 2) chunks, so 20 MiB.
pub const EXPORT_CHUNKS_WAITING_MAX: usize = 8;

/// Smallest volume of a split bundle, so that [`BUNDLE_VOLUMES_MAX`] volumes hold a small store.
pub const VOLUME_BYTES_MIN: u64 = 1024 * 1024;

/// Incomplete images that the error of an export names. The others are counted.
pub const EXPORT_INCOMPLETE_NAMED_MAX: usize = 20;

/// Level of the compression of a bundle, the default of zstd. Layers are usually compressed already.
pub const EXPORT_ZSTD_LEVEL: i32 = 3;

// --- Imports of archives ---

/// Entries of an archive. A docker-archive of old versions has four entries for each layer.
pub const ARCHIVE_ENTRIES_MAX: usize = 262_144;

/// Bytes of the extension of a header. A path has at most 4 KiB.
pub const ARCHIVE_EXTENSION_BYTES_MAX: u64 = 64 * 1024;

/// Growth of a compressed archive, beyond the bytes that are free. An archive of layers with plain text
/// grows to 10 times its size, and a compression bomb to 1,000 times.
pub const ARCHIVE_EXPANSION_MAX: u64 = 100;
pub const ARCHIVE_EXPANSION_FREE_BYTES: u64 = 64 * 1024 * 1024;

/// The window of zstd in an archive as a power of two: 32 MiB of memory. Level 19 uses 8 MiB.
pub const ARCHIVE_ZSTD_WINDOW_LOG_MAX: u32 = 25;

/// Bytes after the end of an archive. tar fills its last record of 10 KiB.
pub const ARCHIVE_TAIL_BYTES_MAX: u64 = 1024 * 1024;

/// Objects of an archive. Each takes some 120 bytes of memory: 12 MiB.
pub const IMPORT_OBJECTS_MAX: usize = 100_000;

/// Bytes of the table of the paths of a docker-archive in memory. A layer has a path of some 75 bytes, in an
/// entry of some 100 bytes.
pub const IMPORT_NAMES_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Links from one path of a docker-archive to its file.
pub const IMPORT_LINKS_MAX: usize = 8;

/// Bytes of the manifests of an archive, in a temporary file: [`BUNDLE_IMAGES_MAX`] images of 25 KiB.
pub const IMPORT_MANIFESTS_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Bytes of manifests that an import parses. Several names of one image repeat the work.
pub const IMPORT_MANIFEST_READS_BYTES_MAX: u64 = 4 * IMPORT_MANIFESTS_BYTES_MAX;

/// Missing or damaged objects that a report names. The others are counted.
pub const IMPORT_NAMED_MAX: usize = 100;

/// Bytes of an archive that are hashed and written at once.
pub const IMPORT_READ_BYTES: usize = 1024 * 1024;

/// Parts of a streamed archive in memory. A part has at most 512 KiB, by the buffer of the HTTP parser.
pub const IMPORT_PARTS_QUEUED_MAX: usize = 8;

/// Time without a further byte of a streamed archive, and time of the whole import.
pub const IMPORT_IDLE_TIMEOUT: Duration = Duration::from_secs(600);
pub const IMPORT_TIMEOUT: Duration = Duration::from_secs(86_400);

// --- Removal of images in the background ---

/// Rules of `prune`. Each due rule costs a pass over the index.
pub const PRUNE_RULES_MAX: usize = 64;

/// Time between two runs of a rule without `every`: 5 hours, the default of ociregistry. Ages are
/// usually days, so the delay is small. A plan for a million objects takes seconds of one CPU.
pub const PRUNE_INTERVAL_DEFAULT: Duration = Duration::from_secs(18_000);

/// Shortest time between two runs of a rule. The index has the uses to the minute.
pub const PRUNE_INTERVAL_MIN: Duration = Duration::from_secs(60);

/// Interval of the checks whether a rule is due.
pub const PRUNE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Log lines about single images of a dry run.
pub const PRUNE_IMAGES_LOGGED_MAX: usize = 100;

// --- Rules that keep images up to date ---

/// Rules of `warm`. Each due rule costs a pass over the index.
pub const WARM_RULES_MAX: usize = 64;

/// Images of one run. A check of an unchanged tag takes a `HEAD` request of some 100 ms, so a run of 1,000
/// images takes two minutes of the default interval.
pub const WARM_IMAGES_MAX: usize = 1_000;

/// Time between two runs of a rule without `every`, and the shortest time.
pub const WARM_INTERVAL_DEFAULT: Duration = Duration::from_secs(3_600);
pub const WARM_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// The longest delay of a run, as a divisor of the interval of its rule. Caches with the same rules spread
/// their requests over a tenth of the interval.
pub const WARM_DELAY_DIVISOR: u32 = 10;

/// Interval of the checks whether a rule is due.
pub const WARM_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time before the continuation of a run that a registry has held back.
pub const WARM_PAUSE_MIN: Duration = Duration::from_secs(1);

/// Ended jobs of rules that stay visible, besides the other jobs. Rules run every hour, and must not
/// displace the reports of the operator's jobs.
pub const WARM_JOBS_ENDED_MAX: usize = 8;

/// Log lines about single images of a run that were not fetched.
pub const WARM_IMAGES_LOGGED_MAX: usize = 20;

// --- Admin API ---

/// Concurrent connections to the admin socket. Operators and scripts need a few.
pub const ADMIN_CONNECTIONS_MAX: usize = 16;

/// Time from the accepted connection to the end of the request head, and to the end of the response.
/// A removal of a million objects takes two minutes.
pub const ADMIN_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
pub const ADMIN_REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// Time of a request of `top`. The responses contain no content of the store, so a healthy cache needs
/// milliseconds.
pub const ADMIN_VIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds of the interval of `top`. Each refresh takes five requests, some milliseconds of a helper thread.
pub const TOP_INTERVAL_MIN: Duration = Duration::from_millis(100);
pub const TOP_INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Largest request body. A prune request with long patterns has a few KiB.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the file with the tokens of the admin API: some 700 lines.
pub const ADMIN_TOKENS_BYTES_MAX: usize = 64 * 1024;

/// Images of a page of the admin API, and the time after which a page ends with fewer images. A
/// listed image takes about 1 KiB in the response.
pub const ADMIN_PAGE_DEFAULT: usize = 100;
pub const ADMIN_PAGE_MAX: usize = 1000;
pub const ADMIN_PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a page in another order than by name, which looks at all images. 10,000 images take some
/// seconds.
pub const ADMIN_SORT_TIMEOUT: Duration = Duration::from_secs(60);

/// Clients that read events at once. Each keeps a connection of [`ADMIN_CONNECTIONS_MAX`] until
/// [`ADMIN_REQUEST_TIMEOUT`].
pub const EVENT_READERS_MAX: usize = 4;

/// Unread events of such a client: at most 1 KiB each, and 1 MiB for all clients. A removal of more
/// images at once has gaps.
pub const EVENTS_QUEUED_MAX: usize = 256;

/// Interval of the comments that keep an idle connection with events open.
pub const EVENT_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Interval of the lines about a running job.
pub const JOB_LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Images of a plan that are encoded at once for a client: some 100 KiB.
pub const PLAN_PART_IMAGES: usize = 1_000;

/// The pause between two attempts to open the address of the admin API.
pub const ADMIN_BIND_PAUSE: Duration = Duration::from_secs(1);

/// Planned removals that wait for their application, and their lifetime. A plan of a million objects
/// takes 100 MiB, and each common plan less than 1 MiB.
pub const PLANS_MAX: usize = 4;
pub const PLAN_LIFETIME: Duration = Duration::from_secs(600);

/// Jobs of the admin API that run at once, each on its own thread, and ended jobs that stay visible.
/// A disk gains nothing from more readers. A report has at most 10 MiB, and less than 1 KiB without
/// damage.
pub const JOBS_RUNNING_MAX: usize = 2;
pub const JOBS_ENDED_MAX: usize = 16;

/// Stack of the thread of a job. The nested futures of a pull take more than the usual 2 MiB in a build without
/// optimization. Unused pages of a stack take no memory.
pub const JOB_STACK_BYTES: usize = 8 * 1024 * 1024;

/// Commands of ociregistry under `/cmd/` that run at once, each on a blocking thread of the pool.
/// Further commands are rejected (503).
pub const LEGACY_COMMANDS_MAX: usize = 4;

/// Results of such a command without `count`, and results of a list without a limit (`count=-1`). An
/// image takes some 300 bytes in the response, and some 80 bytes more for each blob: 100 MiB for
/// images with 10 blobs.
pub const LEGACY_COUNT_DEFAULT: usize = 50;
pub const LEGACY_COUNT_MAX: usize = 100_000;

// --- Store and tags ---

/// Time after which a lookup counts as a miss, so that a stalled disk does not delay a pull from
/// the upstream. Hashing an entry of an older store takes longer. The hashing continues, and the
/// next lookup finds the entry.
pub const STORE_LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause after a slow lookup. During the pause, everything not open or in memory is a miss.
pub const STORE_STALL_COOLDOWN: Duration = Duration::from_secs(5);

/// Bytes of a passed-through response in the body channel, waiting for the client.
pub const BODY_CHANNEL_BYTES_MAX: usize = 1024 * 1024;

/// Largest sidecar or tag pointer. Upstream heads are limited to 128 KiB. JSON escapes may double
/// the size, and the cache adds its own fields.
pub const SIDECAR_BYTES_MAX: u64 = 512 * 1024;

/// Tags with the newest pointer in memory, shared by all cores.
pub const TAGS_IN_MEMORY_MAX: usize = 65_536;

/// Longest lifetime of tags derived from digests (`sha256-<hex>`, `.sig`, `.att`, `.sbom`).
/// Signatures are added after the image, and clients request them at once.
pub const DERIVED_TAG_TTL_MAX: Duration = Duration::from_secs(10);

// --- Access to repositories ---

/// Validity of a recorded grant of an upstream, counted from the request. A client can read for at
/// most this time after losing access.
pub const GRANT_TTL: Duration = Duration::from_secs(60);

/// Recorded grants of callers for repositories, and of content for repositories, each. About 200
/// bytes each, 3 MiB.
pub const GRANTS_MAX: usize = 16_384;

/// Validity of a recorded denial. During this time, requests for the repository use the client's
/// credentials first.
pub const ANONYMOUS_DENIAL_TTL: Duration = Duration::from_secs(60);

// --- Client authentication ---

/// Threads that check passwords against bcrypt hashes. At 50 ms per check (cost 10), two threads
/// make 40 checks per second. Each credential needs one check per [`PASSWORD_TTL`].
pub const AUTH_THREADS: usize = 2;

/// Password checks waiting for a thread: less than two seconds of work at cost 10. Further checks
/// are rejected (503).
pub const AUTH_QUEUE_MAX: usize = 64;

/// In-flight password checks of one address prefix (one IPv4 address or one IPv6 /64). A client
/// that tries passwords leaves three quarters of the queue to others.
pub const AUTH_CHECKS_PER_ADDRESS_MAX: usize = 16;

/// Requests waiting for one password check. Enough for a fleet that starts with the same credential
/// at once.
pub const AUTH_WAITERS_MAX: usize = 16_384;

/// Longest wait of a request for its password check.
pub const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for which a correct password is not checked again. A changed htpasswd file ends this time
/// at once.
pub const PASSWORD_TTL: Duration = Duration::from_secs(300);

/// Time for which a wrong password is not checked again. Long enough for a client that repeats its
/// request.
pub const PASSWORD_NEGATIVE_TTL: Duration = Duration::from_secs(10);

/// Cached password checks, as credential digests, for correct and for wrong passwords each. About
/// 150 bytes each, 1.2 MiB.
pub const CACHED_PASSWORDS_MAX: usize = 4_096;

/// Longest checked credentials, in base64. bcrypt uses only 72 bytes of a password.
pub const CREDENTIAL_BYTES_MAX: usize = 1_024;

/// Cached identities of a core, as credential digests, and their lifetime. At most 300 bytes each
/// with the rules, 1.2 MiB.
pub const IDENTITIES_PER_CORE_MAX: usize = 4_096;
pub const IDENTITY_TTL: Duration = Duration::from_secs(60);

/// Interval between two checks of an htpasswd file. A check is one `stat`.
pub const HTPASSWD_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Rules under `allow`, in one list. Each response in memory carries a set of rules: 128 bytes for
/// 1,024 rules.
pub const ALLOW_RULES_MAX: usize = 1_024;

/// Nested lists and maps of the configuration file. The deepest setting is at level 6. Each level
/// takes some 10 KiB of stack without optimization.
pub const CONFIG_DEPTH_MAX: usize = 16;

// --- Bucket reads ---

/// Time after which a lookup in the bucket counts as a miss. Engines respond in 10 to 200 ms. A
/// client waits for a timeout once, then [`BUCKET_STALL_COOLDOWN`] applies.
pub const BUCKET_LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for the bucket to send the first bytes of an existing object, or all bytes of a small
/// object. Covers one attempt of the S3 client ([`S3_ATTEMPT_TIMEOUT`]) and a new connection.
pub const BUCKET_OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a slow response of the bucket. During the pause, every lookup in the bucket is a
/// miss.
pub const BUCKET_STALL_COOLDOWN: Duration = Duration::from_secs(5);

/// Further bucket requests for a body that broke off before [`BUCKET_PROGRESS_BYTES_MIN`].
/// Afterwards the cache requests the rest from the registry.
pub const BUCKET_BODY_RETRIES_MAX: u32 = 2;
pub const BUCKET_PROGRESS_BYTES_MIN: u64 = 1024 * 1024;

/// Quarantine of an object with wrong content in the bucket. Hashing the largest layers takes less
/// time.
pub const QUARANTINE_TIME: Duration = Duration::from_secs(60);

/// Recorded quarantined objects, at 100 bytes each.
pub const QUARANTINED_MAX: usize = 4_096;

/// Validity of a URL with which a client reads a blob directly from the bucket. Clients use the URL
/// at once.
pub const BUCKET_URL_TTL: Duration = Duration::from_secs(60);

/// Offset at which a range of an uncached blob is read from the bucket instead of the fill. At 100
/// MB/s, a fill needs a third of a second to reach this offset.
pub const BUCKET_RANGE_DISTANCE_MIN: u64 = 32 * 1024 * 1024;

// --- Bucket uploads ---

/// Uploads in flight. Each upload reads a file in parts. Four uploads saturate the capacity that
/// clients leave.
pub const UPLOADS_MAX: usize = 4;

/// In-flight uploads of one registry. A worker remains for other registries.
pub const UPLOADS_PER_REGISTRY_MAX: usize = UPLOADS_MAX - 1;

/// Waiting uploads: 4 MiB at 500 bytes each, and hours of new layers on a busy node. A registry
/// queues at most as many uploads as it leaves to others. [`UPLOADS_MEMORY_MAX`] follows this rule
/// too.
pub const UPLOADS_QUEUED_MAX: usize = 8_192;

/// Bytes of manifests in memory waiting for an upload: thousands of ordinary ones, 16 of the
/// largest.
pub const UPLOADS_MEMORY_MAX: u64 = 64 * 1024 * 1024;

/// Attempts at one upload while the bucket is available, in addition to the attempts of the S3
/// client for each request.
pub const UPLOAD_ATTEMPTS_MAX: u32 = 4;

/// Longest wait of an upload in the spool or in memory for an unavailable bucket.
pub const UPLOAD_MAX_AGE: Duration = Duration::from_secs(600);

/// Entries of the local store with a recorded check in the bucket: 200 bytes each, 13 MiB.
pub const REPLICATION_CHECKS_MAX: usize = 65_536;

/// Bytes of all files in the spool: 64 fills, a busy node, of 256 MiB each. A smaller disk is full
/// earlier.
pub const SPOOL_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// Time for which the spool still serves a blob after its upload to the bucket.
pub const SPOOL_LINGER_TIME: Duration = Duration::from_secs(5);

// --- S3 client ---

/// Timeout of a connection attempt to the bucket's engine.
pub const S3_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Timeout of one attempt at a small bucket request, or at the head of a large response. Engines
/// respond within milliseconds on a local network and within a second across a continent.
pub const S3_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);

/// Timeout of a small bucket request with all attempts.
pub const S3_OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Attempts at one request, including the first. Pauses of 0.1 s and 0.2 s, doubled if the engine
/// throttles requests.
pub const S3_ATTEMPTS_MAX: u32 = 3;

/// Longest wait of a client without any byte of a body from the bucket.
pub const S3_BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Timeout of the bucket's self-test at start. Afterwards the start continues without it.
pub const S3_SELF_TEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Minimum upload rate, in bytes per second, for the time beyond [`S3_ATTEMPT_TIMEOUT`].
pub const S3_UPLOAD_RATE_MIN: u64 = 1024 * 1024;

/// Time to complete a multipart upload. Engines copy or check the parts first, AWS within minutes.
pub const S3_COMPLETE_TIMEOUT: Duration = Duration::from_secs(180);

/// Smallest content uploaded in parts. A single request takes at most 5 GiB, and restarts from the
/// beginning after a failure.
pub const S3_MULTIPART_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Size of a part, equal for all parts but the last. AWS requires at least 5 MiB. For content of
/// 156 GiB and more, parts grow so that [`S3_PARTS_MAX`] suffices.
pub const S3_PART_BYTES: u64 = 16 * 1024 * 1024;
pub const S3_PARTS_MAX: u64 = 10_000;

/// Parts of one upload in flight at once.
pub const S3_PARTS_IN_FLIGHT: usize = 4;

/// Requests at once of a command that copies the metadata of a bucket. 16 × 4 MiB of a manifest are at
/// most 64 MiB.
pub const S3_COPY_READS_MAX: usize = 16;

/// Uploads in flight at once. Further uploads wait for [`S3_UPLOAD_QUEUE_TIMEOUT`]. A part is
/// streamed from its file through [`S3_UPLOAD_BUFFER_BYTES`]. 8 uploads × 4 parts × (256 KiB + 400
/// KiB of a connection) are at most 21 MiB.
pub const S3_UPLOADS_MAX: usize = 8;
pub const S3_UPLOAD_QUEUE_TIMEOUT: Duration = Duration::from_secs(120);
pub const S3_UPLOAD_BUFFER_BYTES: usize = 256 * 1024;

/// Open bodies of the bucket. Further reads wait for [`S3_READ_QUEUE_TIMEOUT`]. 256 × 400 KiB of
/// connection buffers are at most 100 MiB, even with slow clients. The wait is shorter than
/// [`BUCKET_OPEN_TIMEOUT`], because a full queue is no sign of a slow engine.
pub const S3_READS_MAX: usize = 256;
pub const S3_READ_QUEUE_TIMEOUT: Duration = Duration::from_secs(3);

/// Open bodies of at most [`HELD_WHOLE_BYTES_MAX`], including manifests. Reading them never waits
/// for a client, so they have separate slots. 64 × 1 MiB are 64 MiB.
pub const S3_SHORT_READS_MAX: usize = 64;

/// Largest share of one registry in the slots for bucket bodies, as a multiple of the free slots:
/// three quarters.
pub const S3_READS_WEIGHT: u64 = 3;

/// Entries of an older store that are hashed at once.
pub const S3_HASHES_MAX: usize = 2;

/// Time for which an unchanged record of referrers is not written to the bucket again.
pub const S3_RECORD_REWRITE_INTERVAL: Duration = Duration::from_secs(600);

/// Tasks that write records of referrers to the bucket, and waiting changes per task: a few seconds
/// of work. Each task writes all changes of a registry, in the order of the registry's responses.
/// The bytes of waiting changes count in the memory budget.
pub const RECORD_WRITERS: usize = 16;
pub const RECORD_WRITES_WAITING_MAX: usize = 64;

/// Idle connections to the engine.
pub const S3_IDLE_CONNECTIONS_MAX: usize = 64;

/// Lifetime of a cached sidecar from the bucket. A missing sidecar is requested each time, because
/// another node may have stored one meanwhile.
pub const S3_SIDECAR_TTL: Duration = Duration::from_secs(60);

/// Sidecars in memory: 16 MiB at 1 KiB each.
pub const S3_SIDECARS_MAX: usize = 16_384;

/// Consecutive failures that trip the bucket's circuit breaker, its first pause, and its longest
/// pause. The pause doubles after each failure.
pub const S3_BREAKER_FAILURES: u32 = 5;
pub const S3_BREAKER_PAUSE_MIN: Duration = Duration::from_secs(1);
pub const S3_BREAKER_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Age after which a cancelled bucket request counts as a failure of the bucket.
pub const S3_CANCELLED_FAILURE_AGE: Duration = Duration::from_secs(1);

/// Longest lifetime of a presigned URL, with which any client may read an object.
pub const S3_PRESIGNED_TTL_MAX: Duration = Duration::from_secs(60);

// --- Helper threads ---

/// Threads for blocking work: one write and one hash per running fill, as many again for store
/// lookups, file readers and host name lookups, and the lookups in the stores of registries.
pub const BLOCKING_THREADS_MAX: usize = 3 * FILLS_MAX + REGISTRY_STORES_MAX * REGISTRY_STORE_LOOKUPS_MAX;

/// Host name lookups of all registries that block a thread at once: a third of
/// [`BLOCKING_THREADS_MAX`]. A configuration entry has at most 8 lookups. 32 entries with
/// unresponsive name servers would block the lookups of all other entries.
pub const NAME_LOOKUPS_MAX: usize = FILLS_MAX;

/// Store lookups that block a thread at once. A lookup takes microseconds on a responsive disk. In
/// an older store, the first lookup of an entry hashes its file. On an unresponsive disk, each
/// lookup blocks its thread, while readers of open files still need threads.
pub const STORE_LOOKUPS_MAX: usize = FILLS_MAX / 2;

/// Directories of registries with `cache_dir`. Each has an index and four threads of its own: 32
/// threads. A directory is for another disk, and a machine with more disks joins them in a volume.
pub const REGISTRY_STORES_MAX: usize = 8;

/// Lookups in the store of a registry with `cache_dir` that block a thread at once: with all such
/// stores as many as in the default store ([`STORE_LOOKUPS_MAX`]).
pub const REGISTRY_STORE_LOOKUPS_MAX: usize = STORE_LOOKUPS_MAX / REGISTRY_STORES_MAX;

// --- Traces ---

/// Finished spans that wait for the export. A span has at most 12 attributes, of which five texts have
/// at most [`TRACE_TEXT_BYTES_MAX`] bytes. A span therefore takes at most 2 KiB, and the queue 4 MiB.
/// Further spans are dropped.
pub const TRACE_QUEUE_SPANS_MAX: usize = 2_048;

/// Spans of one request to the collector, a quarter of the queue: at most 1 MiB.
pub const TRACE_BATCH_SPANS_MAX: usize = 512;

/// Bytes of a text in an attribute of a span, such as a path. Longer texts are clipped.
pub const TRACE_TEXT_BYTES_MAX: usize = 256;

/// Time between two exports of the queue.
pub const TRACE_EXPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Pauses after failed exports. The pause doubles with each failure in a row: a collector that is
/// down gets one request per minute.
pub const TRACE_PAUSE_MIN: Duration = Duration::from_secs(1);
pub const TRACE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Bytes of a collector's response that are read, to keep the connection. A response has a count of
/// rejected spans, and a message.
pub const TRACE_ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Time of the last export after a stop signal.
pub const TRACE_STOP_TIMEOUT: Duration = Duration::from_secs(1);

// --- Web page ---

/// Bytes of the address in `BASE_URL`: a host name (RFC 1035) and `:65535`.
pub const AUTHORITY_BYTES_MAX: usize = 253 + 6;

/// Bytes of a text that are searched for an image name. A name has at most some 650 bytes.
pub const PASTED_TEXT_BYTES_MAX: usize = 2048;

// --- Relations between limits ---

const _: () = assert!(WITHHELD_BYTES < HELD_WHOLE_BYTES_MAX);
// A body held whole must fit in the window. Otherwise it could never be verified without a disk.
const _: () = assert!(HELD_WHOLE_BYTES_MAX as usize <= FILL_WINDOW_BYTES);
const _: () = assert!(HEARTBEAT_TIMEOUT.as_secs() < CORE_ABORT_TIMEOUT.as_secs());
const _: () = assert!(CORE_ABORT_TIMEOUT.as_secs() < CORE_ABORT_TIMEOUT_IN_KERNEL.as_secs());
const _: () = assert!(READERS_CACHED_MAX + READERS_SMALL_MAX + READERS_LARGE_MAX <= FILLS_MAX / 2);
// Readers and lookups together leave threads for hashes and health checks, even if every fill waits
// for the disk.
const _: () = assert!(
    NAME_LOOKUPS_MAX + STORE_LOOKUPS_MAX + READERS_CACHED_MAX + READERS_SMALL_MAX + READERS_LARGE_MAX
        < BLOCKING_THREADS_MAX - FILLS_MAX - REGISTRY_STORES_MAX * REGISTRY_STORE_LOOKUPS_MAX
);
// A pipe holds whole steps.
const _: () = assert!(COLD_READ_BYTES as usize <= PIPE_BYTES);
const _: () = assert!(FILL_WINDOW_KEPT_BYTES < FILL_WINDOW_BYTES);
const _: () = assert!(S3_READ_QUEUE_TIMEOUT.as_secs() < BUCKET_OPEN_TIMEOUT.as_secs());
// Limits of AWS.
const _: () = assert!(S3_PART_BYTES >= 5 * 1024 * 1024 && S3_MULTIPART_BYTES_MIN <= 5 * 1024 * 1024 * 1024);
