"""An S3 engine, started with scripts/s3.sh."""

import os
import subprocess
from pathlib import Path

from server import STOP_SECONDS, Failed, Missing, Server


class Engine(Server):
    """A running S3 engine, a child of a shell."""

    def __init__(self, name, process, port, log, settings):
        super().__init__(name, process, port, log)
        self.settings = settings

    def object(self, key):
        return f"/{self.settings['S3_BUCKET']}/{key}"

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(stage):
    """Starts Garage if installed, otherwise moto."""
    script = Path(__file__).parent.parent / "s3.sh"
    folder = stage.folder("engine")
    # The shell exits and stops the engine when its standard input closes.
    words = f"""
source {script}
trap 'stop_engines; rm -rf "$s3_scratch"' EXIT
if garage_command >/dev/null; then start_garage >&2; echo engine=garage
elif moto_command >/dev/null; then start_moto >&2; echo engine=moto; fi
env | grep -E '^(AWS|S3)_'
echo ready
cat >/dev/null
"""
    environment = dict(os.environ, TMPDIR=str(folder))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
    settings = {}
    for line in process.stdout:
        if line.strip() == "ready":
            break
        name, _, value = line.strip().partition("=")
        settings[name] = value
    else:
        raise Failed(f"the S3 engine did not start, log {folder / 'log'}")
    if "engine" not in settings:
        process.stdin.close()
        process.wait()
        raise Missing("neither garage nor moto is installed (GARAGE, MOTO_SERVER; scripts/s3.sh)")
    name = settings.pop("engine")
    port = int(settings["AWS_ENDPOINT_URL"].rsplit(":", 1)[1])
    engine = Engine(name, process, port, folder / "log", settings)
    stage.running.append(engine)
    return engine
