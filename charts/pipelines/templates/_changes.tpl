{{/* Values that an earlier version had and this one has not (CHANGES.yaml) are refused with what to write instead. */}}

{{- define "pipelines.removedValues" -}}
{{- range (.Files.Get "CHANGES.yaml" | fromYaml).values -}}
{{- if include "pipelines.isSet" (list $.Values .value) -}}
{{- fail (printf "%s: it was removed in version %s, because %s. %s" .value $.Chart.Version .reason .instead) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Something, where values hold a path such as pipelines[].schedules[].cron: include "pipelines.isSet" (list VALUES PATH) */}}
{{- define "pipelines.isSet" -}}
{{- $values := index . 0 -}}
{{- $keys := splitList "." (index . 1) -}}
{{- $key := first $keys | trimSuffix "[]" -}}
{{- $below := rest $keys | join "." -}}
{{- if and (kindIs "map" $values) (hasKey $values $key) -}}
{{- if not $below -}}set
{{- else if hasSuffix "[]" (first $keys) -}}
{{- range index $values $key -}}{{- include "pipelines.isSet" (list . $below) -}}{{- end -}}
{{- else -}}
{{- include "pipelines.isSet" (list (index $values $key) $below) -}}
{{- end -}}
{{- end -}}
{{- end -}}
