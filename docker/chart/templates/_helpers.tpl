{{- define "scanfleet.labels" -}}
app.kubernetes.io/name: scanfleet
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "scanfleet.podSecurity" -}}
automountServiceAccountToken: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.images.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
# Process 1 of the pod reaps children; by number: a name does not show that it is not root's.
shareProcessNamespace: true
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "scanfleet.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "scanfleet.environment" -}}
envFrom:
  - secretRef: {name: {{ .root.Values.secretName }}}
env:
  {{- range $name, $value := merge (dict) .settings .root.Values.settings }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
{{- end }}

{{- define "scanfleet.mounts" -}}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: data, mountPath: /var/lib/scanfleet}
{{- end }}

{{/* Waits until the migration has run: a pod that starts early is not restarted again and again. */}}
{{- define "scanfleet.wait" -}}
- name: wait
  image: {{ .root.Values.images.producer }}
  imagePullPolicy: {{ .root.Values.images.pullPolicy }}
  args: [db, wait, --seconds, {{ .root.Values.migration.waitSeconds | quote }}]
  resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {memory: 256Mi}}
  {{- include "scanfleet.containerSecurity" . | nindent 2 }}
  {{- include "scanfleet.environment" (dict "root" .root "settings" dict) | nindent 2 }}
  {{- include "scanfleet.mounts" . | nindent 2 }}
{{- end }}

{{/* Resources with the cards of a pod. */}}
{{- define "scanfleet.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if .gpus -}}
{{- $_ := set $resources "limits" (merge (dict "nvidia.com/gpu" .gpus) ($resources.limits | default dict)) -}}
{{- end -}}
resources: {{ toYaml $resources | nindent 2 }}
{{- end }}
