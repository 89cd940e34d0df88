//! The page in a real browser: headless Chromium, from `CHROMIUM` or the path (Debian's package `chromium`).

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod service;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::any;
use scrapetarget_exporter::http::RouterOptions;
use scrapetarget_exporter::kind::Type;
use service::eventually::PATIENCE;
use service::{Service, nobody, pending, server, target, target_of_pods};
use simulators::Simulated;

const HOSTILE: &str = "</th><script>document.title='owned'</script><img src=x onerror=\"alert(1)\">'&amp;\u{202e}";

/// What Chromium wrote: the page after its scripts have run, and its log with the page's console.
struct Seen {
    dom: String,
    log: String,
}

fn browser() -> PathBuf {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|directory| ["chromium", "chromium-browser", "google-chrome"].map(|name| directory.join(name)))
        .find(|file| file.is_file())
        .expect("this test needs Chromium: apt-get install chromium, or say by CHROMIUM where it is")
}

/// Opens `url` in a fresh browser. With a picture, takes one; else prints the page.
fn open(url: &str, arguments: &[&str], picture: Option<&Path>) -> Seen {
    let directory = tempfile::tempdir().unwrap();
    let (out, log) = (directory.path().join("out"), directory.path().join("log"));
    let mut command = Command::new(browser());
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--log-level=0"])
        .arg(format!("--user-data-dir={}", directory.path().join("profile").display()))
        .args(arguments);
    match picture {
        None => command.arg("--dump-dom"),
        Some(picture) => command.arg(format!("--screenshot={}", picture.display())),
    };
    command.arg(url).stdout(File::create(&out).unwrap()).stderr(File::create(&log).unwrap()).stdin(Stdio::null());
    let mut browser = command.spawn().expect("Chromium starts");
    let start = Instant::now();
    let status = loop {
        let status = browser.try_wait().unwrap();
        if status.is_some() || start.elapsed() > PATIENCE {
            let _ = browser.kill();
            break status.expect("Chromium ends in time");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let log = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
    assert!(status.success(), "Chromium failed: {log}");
    Seen { dom: String::from_utf8_lossy(&fs::read(out).unwrap()).into_owned(), log }
}

/// Opens `url` without holding up the service in this process.
async fn visit(url: String, arguments: &'static [&'static str], picture: Option<PathBuf>) -> Seen {
    tokio::task::spawn_blocking(move || open(&url, arguments, picture.as_deref())).await.unwrap()
}

/// One target in each state, with names that no decent person would choose.
async fn service() -> (Service, Vec<Simulated>) {
    let (good, bad) = (server(StatusCode::OK).await, server(StatusCode::BAD_GATEWAY).await);
    let hanging = Router::new().fallback(any(|| async { std::future::pending::<()>().await }));
    let hanging = Simulated::serve(hanging, ([127, 0, 0, 1], 0).into()).await.unwrap();
    let mut invalid = service::declared("webrtc", HOSTILE, Type::Sora, "http://x.invalid/", |spec| {
        spec.labels.insert("region".to_owned(), HOSTILE.to_owned());
    });
    invalid.problem = Some(scrapetarget_exporter::target::Problem::invalid_spec(HOSTILE));
    let mut suspended = target("a", "suspended", "http://x.invalid/");
    suspended.suspend = true;
    let long = "sora-with-a-name-as-long-as-a-name-in-kubernetes-may-be-and-then-some";
    let pod = "a-pod-with-a-name-without-any-place-to-break-it-".repeat(5);
    let pod = pod.trim_end_matches('-');
    let url = format!("{}{}", good.url(), "a-path-without-any-place-to-break-it-".repeat(8).trim_end_matches('-'));
    let targets = vec![
        suspended,
        target("webrtc", long, &url),
        target_of_pods("webrtc", "pods", &[("sora-0", good.address), (pod, bad.address)]),
        pending("webrtc", "pending", &hanging.url()),
        target("webrtc", "refused", &nobody()),
        invalid,
    ];
    let service = Service::start(targets, RouterOptions::default()).await;
    for poller in service.pollers.list().iter().filter(|poller| &*poller.id().name != "pending") {
        poller.answer(PATIENCE).await;
    }
    // The newest failure comes first: this one fails after the others have.
    service.pollers.apply([target("webrtc", "gateway", &bad.url())]);
    let newest = service.pollers.list().into_iter().find(|poller| &*poller.id().name == "gateway").unwrap();
    newest.answer(PATIENCE).await;
    (service, vec![good, bad, hanging])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_what_is_down_first_and_runs_nothing_that_a_stranger_wrote() {
    let (service, _servers) = service().await;
    let seen = visit(service.url("/?refresh=off"), &["--window-size=1400,900"], None).await;
    assert!(seen.dom.contains("<title>2 down, 1 invalid · scrapetarget-exporter</title>"), "{}", seen.dom);
    let rows: Vec<&str> = seen.dom.split("<tr role=\"row\" class=\"").skip(1).collect();
    let states: Vec<&str> = rows.iter().map(|row| row.split('"').next().unwrap()).collect();
    assert_eq!(states, ["down", "down", "invalid", "pending", "up", "up", "suspended"]);
    for (row, words) in rows.iter().zip([
        &[
            "</small>gateway</th>",
            "<b>http_status</b> <bdi>GetStatsReport: answered 502 Bad Gateway, 2 bytes of JSON</bdi>",
        ][..],
        &["</small>refused</th>", "<b>connect</b>", "probe?target=webrtc%2Frefused&amp;debug=true"],
        &["<b>config</b>", "&lt;script&gt;"],
        &["</small>pending</th>"],
        &["</small>pods</th>", "<small>1/2 up", "<li class=\"down\">", "&amp;debug=true&amp;pod=sora-0\">"],
    ]) {
        assert!(words.iter().all(|words| row.contains(words)), "{words:?} in {row}");
    }
    assert!(!seen.dom.contains("<script") && !seen.dom.contains("<img"), "{}", seen.dom);
    assert!(!seen.dom.contains('\u{202e}'));
    assert!(!seen.log.contains("Content Security Policy"), "the page keeps its own policy: {}", seen.log);
}

/// Measures a page in a frame of 360 px: Chromium's own window is never that narrow.
const PHONE: &str = r#"<!DOCTYPE html><meta charset="utf-8"><iframe style="width:360px;height:800px;border:0" srcdoc="PAGE"></iframe><script>
onload=()=>{const d=document.querySelector("iframe").contentDocument,wide=[];
for(const e of d.querySelectorAll("body *"))if(e.closest(".sr,thead,head")===null&&e.getBoundingClientRect().right>360.5)wide.push(e.tagName+"."+e.className);
const s=getComputedStyle(d.querySelector("tbody tr")).display;
document.title="width "+d.documentElement.scrollWidth+" rows "+s+" wide "+wide.join(" ")}</script>"#;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_wider_than_a_phone() {
    let (service, _servers) = service().await;
    let (_, page) = service.text("/?refresh=off").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("phone.html");
    fs::write(&file, PHONE.replace("PAGE", &page.replace('&', "&amp;").replace('"', "&quot;"))).unwrap();
    let seen = visit(format!("file://{}", file.display()), &["--window-size=800,900"], None).await;
    assert!(seen.dom.contains("<title>width 360 rows block wide </title>"), "{}", &seen.dom[seen.dom.len() - 400..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_dark_where_the_reader_wants_it_dark() {
    let (service, _servers) = service().await;
    let directory = tempfile::tempdir().unwrap();
    let mut corners = Vec::new();
    for (name, arguments) in [
        ("light.png", &["--window-size=600,400", "--blink-settings=preferredColorScheme=1"][..]),
        ("dark.png", &["--window-size=600,400", "--blink-settings=preferredColorScheme=0"]),
    ] {
        let picture = directory.path().join(name);
        visit(service.url("/?refresh=off"), arguments, Some(picture.clone())).await;
        corners.push(first_pixel(&fs::read(picture).unwrap()));
    }
    assert!(corners[0].iter().all(|&c| c > 230) && corners[1].iter().all(|&c| c < 50), "{corners:?}");
}

/// Red, green and blue at the upper left corner of a PNG. The first pixel is the same under every PNG filter.
fn first_pixel(png: &[u8]) -> [u8; 3] {
    use std::io::Read;
    let mut data = Vec::new();
    let mut at = 8;
    while let Some(head) = png.get(at..at + 8) {
        let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        if &head[4..] == b"IDAT" {
            data.extend_from_slice(&png[at + 8..at + 8 + length]);
        }
        at += 12 + length;
    }
    let mut row = [0; 4];
    flate2::read::ZlibDecoder::new(&*data).read_exact(&mut row).unwrap();
    [row[1], row[2], row[3]]
}
