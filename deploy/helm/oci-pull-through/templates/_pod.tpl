{{/* The checksums restart the pods after a change. */}}
{{- define "cache.podAnnotations" -}}
{{- with .Values.serverConfig.configuration }}
checksum/config: {{ toYaml . | sha256sum }}
{{- end }}
{{- with .Values.serverTls }}
{{- if and .enabled (not .secretName) }}
checksum/tls: {{ printf "%s%s%s" .cert .key .ca | sha256sum }}
{{- end }}
{{- end }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "cache.pod" -}}
{{- $volume := include "cache.volume" . }}
{{- $health := include "cache.healthPort" . }}
{{- $metrics := include "cache.metricsPort" . }}
{{- $tls := .Values.serverTls }}
{{- $scheme := ternary "HTTPS" "HTTP" $tls.enabled -}}
metadata:
  labels:
    {{- include "cache.selectorLabels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with include "cache.podAnnotations" . | trim }}
  annotations:
    {{- . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "cache.serviceAccountName" . }}
  automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.tolerations }}
  tolerations:
    {{- toYaml .Values.tolerations | nindent 4 }}
  {{- else if eq .Values.mode "daemonset" }}
  tolerations:
    - operator: Exists
  {{- end }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: cache
      image: {{ include "cache.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      {{- with .Values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      env:
        - {name: LISTEN_ADDR, value: {{ ternary "https://:8080" "http://:8080" $tls.enabled | quote }}}
        - {name: STORAGE_BACKEND, value: {{ .Values.storage.backend }}}
        {{- if ne $volume "none" }}
        - {name: FS_ROOT, value: {{ .Values.persistence.mountPath | quote }}}
        {{- end }}
        {{- with .Values.storage.maxSize }}
        - {name: CACHE_MAX_SIZE, value: {{ . | quote }}}
        {{- end }}
        {{- if ne .Values.storage.backend "fs" }}
        - {name: S3_BUCKET, value: {{ .Values.s3.bucket | quote }}}
        - {name: S3_FORCE_PATH_STYLE, value: {{ .Values.s3.forcePathStyle | quote }}}
        {{- with .Values.s3.prefix }}
        - {name: S3_PREFIX, value: {{ . | quote }}}
        {{- end }}
        {{- with .Values.s3.endpoint }}
        - {name: AWS_ENDPOINT_URL_S3, value: {{ . | quote }}}
        {{- end }}
        {{- with .Values.s3.region }}
        - {name: AWS_REGION, value: {{ . | quote }}}
        {{- end }}
        {{- end }}
        {{- if include "cache.hasConfig" . }}
        - {name: CONFIG_FILE, value: {{ printf "%s/config.yaml" .Values.serverConfig.mountPath | quote }}}
        {{- end }}
        {{- if $tls.enabled }}
        - {name: TLS_CERT_FILE, value: /etc/oci-pull-through-tls/tls.crt}
        - {name: TLS_KEY_FILE, value: /etc/oci-pull-through-tls/tls.key}
        - {name: TLS_CLIENT_AUTH, value: {{ $tls.clientAuth | quote }}}
        {{- if ne $tls.clientAuth "none" }}
        - {name: TLS_CLIENT_CA_FILE, value: /etc/oci-pull-through-tls/ca.crt}
        {{- end }}
        {{- end }}
        {{- if .Values.clientAuth.existingSecret }}
        - {name: AUTH_HTPASSWD_FILE, value: /etc/oci-pull-through-auth/htpasswd}
        {{- end }}
        {{- with $health }}
        - {name: HEALTH_ADDR, value: {{ . | quote }}}
        {{- end }}
        {{- with $metrics }}
        - {name: METRICS_ADDR, value: {{ . | quote }}}
        {{- end }}
        - {name: DRAIN_DELAY, value: {{ .Values.drain.delay | quote }}}
        - {name: DRAIN_TIMEOUT, value: {{ .Values.drain.timeout | quote }}}
        {{- if eq (include "cache.trafficPolicy" .) "Cluster" }}
        # The service hides the addresses of clients.
        - {name: MAX_CONNECTIONS_PER_CLIENT, value: "0"}
        {{- end }}
        {{- with .Values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- if or .Values.envFrom (and (ne .Values.storage.backend "fs") .Values.s3.existingSecret) }}
      envFrom:
        {{- if and (ne .Values.storage.backend "fs") .Values.s3.existingSecret }}
        - secretRef: {name: {{ .Values.s3.existingSecret }}}
        {{- end }}
        {{- with .Values.envFrom }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      ports:
        - {name: registry, containerPort: 8080, protocol: TCP}
        {{- with $health }}
        - {name: health, containerPort: {{ . }}, protocol: TCP}
        {{- end }}
        {{- with $metrics }}
        - {name: metrics, containerPort: {{ . }}, protocol: TCP}
        {{- end }}
      livenessProbe:
        {{- if $health }}
        httpGet: {path: /health, port: health}
        {{- else }}
        httpGet: {path: /livez, port: registry, scheme: {{ $scheme }}}
        {{- end }}
        periodSeconds: 10
        timeoutSeconds: 5
      readinessProbe:
        {{- if include "cache.verifiesClients" . }}
        # A probe has no client certificate.
        httpGet: {path: /health, port: health}
        {{- else }}
        httpGet: {path: /readyz, port: registry, scheme: {{ $scheme }}}
        {{- end }}
        periodSeconds: 2
        failureThreshold: 1
      {{- with .Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        # The root of the container is read-only. Uploads wait in this directory if there is no other.
        - {name: tmp, mountPath: /tmp}
        {{- if ne $volume "none" }}
        - {name: images, mountPath: {{ .Values.persistence.mountPath | quote }}}
        {{- end }}
        {{- if include "cache.hasConfig" . }}
        - {name: config, mountPath: {{ .Values.serverConfig.mountPath | quote }}, readOnly: true}
        {{- end }}
        {{- if $tls.enabled }}
        - {name: tls, mountPath: /etc/oci-pull-through-tls, readOnly: true}
        {{- end }}
        {{- if .Values.clientAuth.existingSecret }}
        - {name: auth, mountPath: /etc/oci-pull-through-auth, readOnly: true}
        {{- end }}
        {{- with .Values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.sidecarContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - {name: tmp, emptyDir: {}}
    {{- if eq $volume "hostPath" }}
    - name: images
      hostPath: {path: {{ .Values.persistence.hostPath.path | quote }}, type: {{ .Values.persistence.hostPath.type | quote }}}
    {{- else if eq $volume "emptyDir" }}
    - name: images
      emptyDir:
        {{- with .Values.persistence.emptyDir.sizeLimit }}
        sizeLimit: {{ . }}
        {{- else }} {}
        {{- end }}
    {{- else if and (eq $volume "pvc") (or (eq .Values.mode "deployment") .Values.persistence.persistentVolumeClaim.existingClaimName) }}
    - name: images
      persistentVolumeClaim:
        claimName: {{ default (include "cache.fullname" .) .Values.persistence.persistentVolumeClaim.existingClaimName }}
    {{- end }}
    {{- if include "cache.hasConfig" . }}
    - name: config
      {{- if .Values.serverConfig.existingSecret }}
      secret: {secretName: {{ .Values.serverConfig.existingSecret }}}
      {{- else }}
      configMap: {name: {{ include "cache.fullname" . }}}
      {{- end }}
    {{- end }}
    {{- if $tls.enabled }}
    - name: tls
      secret: {secretName: {{ include "cache.tlsSecretName" . }}}
    {{- end }}
    {{- with .Values.clientAuth.existingSecret }}
    - name: auth
      secret: {secretName: {{ . }}}
    {{- end }}
    {{- with .Values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "cache.claimSpec" -}}
{{- $spec := .Values.persistence.persistentVolumeClaim.newClaimSpec -}}
accessModes:
  {{- toYaml $spec.accessModes | nindent 2 }}
volumeMode: {{ $spec.volumeMode }}
resources:
  requests:
    storage: {{ $spec.storage }}
{{- if kindIs "string" $spec.storageClassName }}
storageClassName: {{ $spec.storageClassName | quote }}
{{- end }}
{{- with $spec.selector }}
selector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
