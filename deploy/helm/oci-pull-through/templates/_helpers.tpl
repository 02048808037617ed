{{- define "cache.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "cache.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "cache.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "cache.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "cache.selectorLabels" -}}
app.kubernetes.io/name: {{ include "cache.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cache.labels" -}}
{{ include "cache.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "cache.metadata" -}}
name: {{ include "cache.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "cache.labels" . | nindent 2 }}
{{- end }}

{{- define "cache.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "cache.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "cache.image" -}}
{{- $image := .Values.image }}
{{- $name := printf "%s/%s" $image.registry $image.repository | trimPrefix "/" }}
{{- if $image.digest }}{{ $name }}@{{ $image.digest }}{{ else }}{{ $name }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{/* The volume of the directory: `none`, `hostPath`, `pvc` or `emptyDir`. */}}
{{- define "cache.volume" -}}
{{- if eq .Values.storage.backend "s3" }}none
{{- else if .Values.persistence.hostPath.enabled }}hostPath
{{- else if .Values.persistence.persistentVolumeClaim.enabled }}pvc
{{- else }}emptyDir
{{- end }}
{{- end }}

{{/* Whether the pods of a deployment share one directory. Only one process at a time may open a directory. */}}
{{- define "cache.sharesDirectory" -}}
{{- if and (eq .Values.mode "deployment") (has (include "cache.volume" .) (list "hostPath" "pvc")) }}true{{ end }}
{{- end }}

{{- define "cache.verifiesClients" -}}
{{- if and .Values.serverTls.enabled (eq .Values.serverTls.clientAuth "verify") }}true{{ end }}
{{- end }}

{{- define "cache.healthPort" -}}
{{- if .Values.health.port }}{{ .Values.health.port }}
{{- else if include "cache.verifiesClients" . }}8081
{{- end }}
{{- end }}

{{- define "cache.metricsPort" -}}
{{- if .Values.metrics.port }}{{ .Values.metrics.port }}
{{- else if .Values.observability.enabled }}2112
{{- end }}
{{- end }}

{{/* Empty for a service without clients from outside the cluster. */}}
{{- define "cache.trafficPolicy" -}}
{{- if ne .Values.service.type "ClusterIP" }}
{{- default (ternary "Local" "Cluster" (eq .Values.mode "daemonset")) .Values.service.externalTrafficPolicy }}
{{- end }}
{{- end }}

{{- define "cache.tlsSecretName" -}}
{{- default (printf "%s-tls" (include "cache.fullname" .)) .Values.serverTls.secretName }}
{{- end }}

{{- define "cache.hasConfig" -}}
{{- if or .Values.serverConfig.configuration .Values.serverConfig.existingSecret }}true{{ end }}
{{- end }}

{{- define "cache.strategy" -}}
{{- if .Values.deploymentStrategy }}
{{- toYaml .Values.deploymentStrategy }}
{{- else if include "cache.sharesDirectory" . -}}
type: Recreate
{{- else if eq .Values.mode "deployment" -}}
type: RollingUpdate
rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
{{- else -}}
type: RollingUpdate
{{- end }}
{{- end }}

{{/* Combinations of values that cannot work. The schema covers single values. */}}
{{- define "cache.validate" -}}
{{- $volume := include "cache.volume" . }}
{{- $claim := .Values.persistence.persistentVolumeClaim }}
{{- if and .Values.persistence.hostPath.enabled $claim.enabled }}
{{- fail "persistence.hostPath.enabled and persistence.persistentVolumeClaim.enabled exclude each other: enable one" }}
{{- end }}
{{- if and (include "cache.sharesDirectory" .) (gt (int .Values.replicas) 1) }}
{{- fail "replicas: several pods of a deployment cannot share one directory; use mode: statefulset, or storage.backend: s3" }}
{{- end }}
{{- if and (eq .Values.mode "statefulset") (gt (int .Values.replicas) 1) (or (eq $volume "hostPath") (and (eq $volume "pvc") $claim.existingClaimName)) }}
{{- fail "replicas: several pods cannot share one directory; use persistence.persistentVolumeClaim.newClaimSpec, so that each pod has a claim" }}
{{- end }}
{{- if and (eq .Values.mode "daemonset") (eq $volume "pvc") }}
{{- fail "persistence.persistentVolumeClaim: the pods of a daemonset cannot share a claim; use persistence.hostPath" }}
{{- end }}
{{- $strategy := default dict .Values.deploymentStrategy }}
{{- if and (include "cache.sharesDirectory" .) (eq (default "" $strategy.type) "RollingUpdate") }}
{{- $rolling := default dict $strategy.rollingUpdate }}
{{- if ne (toString (get $rolling "maxSurge")) "0" }}
{{- fail "deploymentStrategy: a new pod cannot open the directory while the old pod holds it, and the update would hang; use type: Recreate, or rollingUpdate.maxSurge: 0" }}
{{- end }}
{{- end }}
{{- if and (eq .Values.service.type "ClusterIP") (not .Values.service.nodesReachClusterIP) }}
{{- fail "service.type: container runtimes run on nodes, which cannot resolve names of the cluster; use NodePort, or set service.nodesReachClusterIP: true" }}
{{- end }}
{{- $tls := .Values.serverTls }}
{{- if and $tls.enabled (not $tls.secretName) (not (and $tls.cert $tls.key)) }}
{{- fail "serverTls: set serverTls.secretName, or serverTls.cert and serverTls.key (--set-file)" }}
{{- end }}
{{- if and $tls.enabled (ne $tls.clientAuth "none") (not $tls.secretName) (not $tls.ca) }}
{{- fail "serverTls.ca: client certificates need their authority (--set-file serverTls.ca=ca.crt)" }}
{{- end }}
{{- if and .Values.serverConfig.configuration .Values.serverConfig.existingSecret }}
{{- fail "serverConfig.configuration and serverConfig.existingSecret exclude each other: set one" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.hosts: an ingress needs at least one host" }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.parentRefs: a route needs a gateway" }}
{{- end }}
{{- end }}
