{{/*
What `helm test` makes: all of it hooks, made for a test and taken away after it, so that no door stands open and no right is
given in between. A pod that failed stays, for its log, until the next test.
*/}}
{{- define "pipelines.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* The name of its rights, which are the cluster's, so that it carries a hash of the namespace. */}}
{{- define "pipelines.testRights" -}}
{{- include "pipelines.name" (list . (printf "test-%s" (.Release.Namespace | sha256sum | trunc 8))) -}}
{{- end -}}

{{- define "pipelines.testChecks" -}}
{{- if and .Values.tests.apiKey.existingSecret (ne .Values.orchestrator.auth.mode "apiKey") -}}
{{- fail (printf "tests.apiKey.existingSecret: a key is named for helm test, and orchestrator.auth.mode is %s, which asks for none. Set orchestrator.auth.mode=apiKey, or leave it empty." .Values.orchestrator.auth.mode) -}}
{{- end -}}
{{- end -}}
