//! Choices of the process: I/O driver, encryption in the kernel. Each type has the table of its words.

/// The place of encryption after a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelTls {
    /// This process encrypts.
    Off,
    /// The kernel encrypts if the kernel supports the kind of session. Otherwise this process encrypts.
    Auto,
}

impl KernelTls {
    pub(in crate::config) const WORDS: [(&str, Self); 2] =
        [("off", KernelTls::Off), ("auto", KernelTls::Auto)];
}

/// The interface by which the cores wait for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoDriver {
    /// io_uring if the kernel allows it, otherwise epoll.
    Auto,
    /// io_uring, or else the start fails.
    IoUring,
    Epoll,
}

impl IoDriver {
    pub(in crate::config) const WORDS: [(&str, Self); 3] = [
        ("auto", IoDriver::Auto),
        ("io_uring", IoDriver::IoUring),
        ("epoll", IoDriver::Epoll),
    ];
}
