"""The cases, in the order of the table. Each case yields rows, and starts and stops servers."""

import bucket
import cold
import cold_many
import http2
import idle
import management
import registry_cold
import stall
import tag
import tls
import warm

_KINDS = (warm, tag, stall, cold, cold_many, registry_cold, bucket, idle, management, tls, http2)
ALL = {name: case for kind in _KINDS for name, case in kind.CASES.items()}
