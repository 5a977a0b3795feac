#!jinja|json
{# Mails what an event tells; see docs/events.md. As JSON, nothing in the event can be read as YAML. #}
{
  "tell by mail": {
    "runner.amanda.mail": [
      {"args": [{"tag": {{ tag | json }}}, {"data": {{ data | json }}}]}
    ]
  }
}
