module scrapetarget.dev/exporter/tests/tools/pause

go 1.26.8
