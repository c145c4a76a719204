// No page of ours may have styles inline, and no script may be made of text but Alpine's expressions.
htmx.config.includeIndicatorStyles = false;
htmx.config.allowEval = false;
