#!/usr/bin/env python3
"""Exits with 0 if the bucket of AWS_* and S3_BUCKET has the object KEY, otherwise with 1: `has_object.py KEY`."""

import datetime
import hashlib
import hmac
import os
import sys
import urllib.error
import urllib.parse
import urllib.request

endpoint, region = os.environ["AWS_ENDPOINT_URL"], os.environ["AWS_REGION"]
host = endpoint.split("//", 1)[1]
path = "/" + urllib.parse.quote(f"{os.environ['S3_BUCKET']}/{sys.argv[1]}", safe="/-_.~")
now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
empty = hashlib.sha256(b"").hexdigest()
names = "host;x-amz-content-sha256;x-amz-date"
fields = f"host:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{now}\n"
canonical = f"HEAD\n{path}\n\n{fields}\n{names}\n{empty}"
scope = f"{now[:8]}/{region}/s3/aws4_request"
key = ("AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"]).encode()
for part in scope.split("/"):
    key = hmac.new(key, part.encode(), hashlib.sha256).digest()
text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
credential = f"{os.environ['AWS_ACCESS_KEY_ID']}/{scope}"
authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
headers = {"x-amz-content-sha256": empty, "x-amz-date": now, "Authorization": authorization}
try:
    urllib.request.urlopen(urllib.request.Request(endpoint + path, method="HEAD", headers=headers), timeout=10)
except (urllib.error.URLError, OSError) as error:
    sys.exit(f"{sys.argv[1]}: {error}")
