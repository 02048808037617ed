//! The program of the image: a static ELF file that prints a line and exits with 0. The machine code is
//! assembled by hand, so the image needs no compiler of another architecture.

/// The line that the program prints.
pub(super) const LINE: &str = "Hello from oci-pull-through. The cache serves images.\n";

/// A processor, as the image specification and ELF name it.
pub(super) struct Machine {
    pub architecture: &'static str,
    /// `e_machine`.
    elf: u16,
    /// Writes [`LINE`], which follows the code, to descriptor 1, and exits.
    code: &'static [u8],
}

const LINE_BYTES: u8 = LINE.len() as u8;

/// The length of the line is a part of the code.
const _: () = assert!(LINE.len() < 64);

#[rustfmt::skip]
const X86_64: &[u8] = &[
    0xb8, 1, 0, 0, 0,                   // mov eax, 1       write
    0xbf, 1, 0, 0, 0,                   // mov edi, 1       standard output
    0x48, 0x8d, 0x35, 16, 0, 0, 0,      // lea rsi, [rip + 16]
    0xba, LINE_BYTES, 0, 0, 0,          // mov edx, length
    0x0f, 0x05,                         // syscall
    0xb8, 60, 0, 0, 0,                  // mov eax, 60      exit
    0x31, 0xff,                         // xor edi, edi
    0x0f, 0x05,                         // syscall
];

/// `mov x2, length`, with the length from bit 5 on.
const MOV_LENGTH: [u8; 4] = (0xd280_0002 | (LINE_BYTES as u32) << 5).to_le_bytes();

#[rustfmt::skip]
const AARCH64: &[u8] = &[
    0x20, 0x00, 0x80, 0xd2,             // mov x0, 1        standard output
    0xe1, 0x00, 0x00, 0x10,             // adr x1, . + 28
    MOV_LENGTH[0], MOV_LENGTH[1], MOV_LENGTH[2], MOV_LENGTH[3],
    0x08, 0x08, 0x80, 0xd2,             // mov x8, 64       write
    0x01, 0x00, 0x00, 0xd4,             // svc 0
    0x00, 0x00, 0x80, 0xd2,             // mov x0, 0
    0xa8, 0x0b, 0x80, 0xd2,             // mov x8, 93       exit
    0x01, 0x00, 0x00, 0xd4,             // svc 0
];

pub(super) const MACHINES: [Machine; 2] = [
    Machine {
        architecture: "amd64",
        elf: 62,
        code: X86_64,
    },
    Machine {
        architecture: "arm64",
        elf: 183,
        code: AARCH64,
    },
];

/// The address of the file in memory, a multiple of every page size.
const BASE: u64 = 0x40_0000;

const FILE_HEADER_BYTES: u16 = 64;
const PROGRAM_HEADER_BYTES: u16 = 56;

impl Machine {
    /// Returns the ELF file: a file header, one program header, the code and the line.
    pub fn program(&self) -> Vec<u8> {
        let head = u64::from(FILE_HEADER_BYTES + PROGRAM_HEADER_BYTES);
        let size = head + self.code.len() as u64 + LINE.len() as u64;
        let mut file = Vec::new();
        // 64 bits, little endian, version 1, any system.
        file.extend_from_slice(b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00");
        let mut half = |value: u16| file.extend_from_slice(&value.to_le_bytes());
        half(2); // an executable file
        half(self.elf);
        file.extend_from_slice(&1_u32.to_le_bytes());
        file.extend_from_slice(&(BASE + head).to_le_bytes()); // the entry
        file.extend_from_slice(&u64::from(FILE_HEADER_BYTES).to_le_bytes()); // the program header
        file.extend_from_slice(&0_u64.to_le_bytes()); // no sections
        file.extend_from_slice(&0_u32.to_le_bytes());
        for value in [FILE_HEADER_BYTES, PROGRAM_HEADER_BYTES, 1, 64, 0, 0] {
            file.extend_from_slice(&value.to_le_bytes());
        }
        // One segment, readable and executable.
        file.extend_from_slice(&1_u32.to_le_bytes());
        file.extend_from_slice(&5_u32.to_le_bytes());
        for value in [0, BASE, BASE, size, size, 0x1_0000] {
            file.extend_from_slice(&value.to_le_bytes());
        }
        file.extend_from_slice(self.code);
        file.extend_from_slice(LINE.as_bytes());
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_small_and_the_line_follows_the_code() {
        for machine in MACHINES {
            let program = machine.program();
            assert!(program.len() <= 1_024, "{}", machine.architecture);
            let head = usize::from(FILE_HEADER_BYTES + PROGRAM_HEADER_BYTES);
            assert_eq!(&program[head..head + 4], &machine.code[..4]);
            assert!(program.ends_with(LINE.as_bytes()));
        }
        // The displacements of the code.
        assert_eq!((X86_64.len(), AARCH64.len()), (17 + 16, 4 + 28));
    }
}
