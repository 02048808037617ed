"""The queries of the dashboards and the names of the recording rules in deploy/."""

import json
import re
from functools import cache

from monitor import DEPLOY

# The values of the variables of a dashboard. A panel of Grafana has a similar range at a scrape interval of some seconds.
VARIABLES = {"$job": ".*", "$registry": ".*", "$__rate_interval": "30s"}


@cache
def panels():
    """Returns the dashboard, the title and the expression of each query."""
    found = []
    for file in sorted((DEPLOY / "grafana").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                expression = target["expr"]
                for variable, value in VARIABLES.items():
                    expression = expression.replace(variable, value)
                found.append((file.stem, panel["title"], expression))
    return found


@cache
def recorded():
    rules = (DEPLOY / "prometheus" / "recording-rules.yaml").read_text()
    return re.findall(r"record: (\w+)", rules)
