//! The pages in a real Chromium, with a real Xvnc behind the model of `noded`.

use crate::{
    cdp::{Browser, Page},
    desk::Desk,
    fake::{State, Vm},
    world::{World, vm},
};
use model::{
    VmId,
    local::ToRouter,
    state::{VmState, Want},
};
use serde_json::json;

/// A node, a desktop and a browser.
pub struct Scene {
    pub world: World,
    pub desk: Desk,
    pub browser: Browser,
}

impl Scene {
    pub fn new() -> Self {
        let (mut world, desk) = (World::new(), Desk::start());
        desk.attach(&mut world);
        Self { world, desk, browser: Browser::start() }
    }

    pub fn address(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.world.address.port())
    }
}

#[track_caller]
pub fn no_complaints(page: &Page<'_>) {
    let complaints = page.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Logs in and opens the first desktop.
pub fn open<'a>(scene: &'a Scene, width: u32, height: u32) -> Page<'a> {
    let page = scene.browser.page(width, height);
    page.go(&scene.address("/"));
    page.log_in("ann", "secret");
    page.until("document.querySelectorAll('.card').length > 3");
    page.click(".card .primary");
    shown(&page);
    page
}

#[track_caller]
pub fn shown(page: &Page<'_>) {
    page.until("document.body.dataset.open === '1'");
}

/// Types until it arrives: the terminal may still be starting.
#[track_caller]
fn types(scene: &Scene, page: &Page<'_>, text: &str) {
    page.click_at(300.0, 200.0);
    scene.desk.ready();
    page.type_text(text);
    scene.desk.holds("typed", |typed| typed.ends_with(text.as_bytes()));
}

#[test]
fn a_user_logs_in_types_into_a_terminal_and_the_desktop_fits_the_window() {
    let scene = Scene::new();
    let page = scene.browser.page(1280, 800);
    page.go(&scene.address("/"));
    page.log_in("ann", "wrong");
    page.until("document.querySelector('#login-fault').textContent.includes('R101')");
    page.shot("login-wrong");
    page.log_in("ann", "secret");
    page.until("document.querySelectorAll('.card').length > 3");
    page.shot("cards");
    page.click(".card .primary");
    shown(&page);
    page.until("document.querySelector('#screen canvas').width === 1280");
    types(&scene, &page, "hello from the browser\n");
    page.shot("desktop");
    page.click("#handle");
    page.shot("desktop-tools");
    page.resize(900, 600);
    page.until("document.querySelector('#screen canvas').width === 900");
    page.click("#b-leave");
    page.until("!document.querySelector('#cover').hidden");
    page.shot("left");
    no_complaints(&page);
}

#[test]
fn a_card_tells_since_when_the_step_of_a_start_and_why_it_is_blocked_or_failed() {
    let scene = Scene::new();
    {
        let mut state = scene.world.fake.state();
        let mut change = |id: u32, change: fn(&mut Vm)| change(state.vms.get_mut(&VmId(id)).expect("there"));
        change(vm::BLOCKED, |vm| vm.note = Some("new disks, back at noon"));
        change(vm::FAILING, |vm| (vm.blocked, vm.failed) = (true, Some("no init in the image".to_owned())));
        change(vm::STOPPED, |vm| vm.failed = Some("killed: out of memory".to_owned()));
        change(vm::HANGING, |vm| (vm.state, vm.phase) = (VmState::Starting, "waiting-for-agent"));
    }
    for (language, width, running, texts) in [
        (
            "en",
            1280,
            "Running for 3 minutes",
            [
                "In maintenance: an administrator has blocked this desktop.\nnew disks, back at noon",
                "Blocked, since it could not be started. An administrator has to look at it.",
                "It has failed the last time.\nno init in the image · Code R207",
                "It has failed the last time.\nkilled: out of memory · Code R207",
                "Starting for 3 minutes\n\nIt is starting up.",
            ],
        ),
        (
            "es",
            390,
            "En marcha desde hace 3 minutos",
            [
                "En mantenimiento: un administrador ha bloqueado este escritorio.\nnew disks, back at noon",
                "Bloqueado porque no pudo arrancar. Un administrador tiene que revisarlo.",
                "Falló la última vez.\nno init in the image · Código R207",
                "Falló la última vez.\nkilled: out of memory · Código R207",
                "Arrancando desde hace 3 minutos\n\nEstá arrancando.",
            ],
        ),
    ] {
        let page = scene.browser.page(width, 1400);
        page.language(language);
        page.go(&scene.address("/"));
        page.log_in("ann", "secret");
        page.until("document.querySelectorAll('.card').length > 3");
        let shown = page.eval("document.querySelector('#cards').innerText");
        let shown = shown.as_str().expect("text");
        for text in texts.into_iter().chain([running]) {
            assert!(shown.contains(text), "{text} is not in {shown}");
        }
        page.shot(&format!("cards-told-{language}"));
        no_complaints(&page);
    }
    // A session with another router's client is told as well.
    let page = open(&scene, 1280, 800);
    let other = scene.browser.page(1280, 800);
    other.go(&scene.address("/"));
    other.log_in("ann", "secret");
    other.until("document.querySelector('#cards')?.innerText.includes('Open in another window or client for 2 hours')");
    no_complaints(&page);
}

#[test]
fn an_account_with_a_one_time_code_is_asked_for_it_and_no_code_is_good_twice() {
    let scene = Scene::new();
    let page = scene.browser.page(1280, 800);
    page.go(&scene.address("/"));
    page.log_in("eve", "apple");
    page.until("document.querySelector('#login-fault').textContent.includes('R107')");
    page.until("document.activeElement.id === 'code' && document.querySelector('#code').offsetHeight > 0");
    page.shot("login-code");
    page.type_text("111111\n");
    page.until("document.querySelector('#login-fault').textContent.includes('R108')");
    page.until("document.activeElement.id === 'code'");
    page.type_text("123456\n");
    page.until("document.querySelectorAll('.card').length > 3");
    no_complaints(&page);
    let other = scene.browser.page(1280, 800);
    other.go(&scene.address("/"));
    other.until("document.querySelector('#login')?.hidden === false");
    other.eval("document.querySelector('#code-part').open = true; document.querySelector('#code').value = '123456'; 1");
    other.click("#user");
    other.type_text("eve");
    other.click("#password");
    other.type_text("apple\n");
    other.until("document.querySelector('#login-fault').textContent.includes('R108')");
    no_complaints(&other);
}

#[test]
fn a_node_built_without_the_viewer_says_so() {
    let scene = Scene::new();
    let page = scene.browser.page(1280, 800);
    page.go(&scene.address("/"));
    page.log_in("ann", "secret");
    page.until("document.querySelectorAll('.card').length > 3");
    // What the page's builder writes when there is no package; scripts run after this state.
    let source =
        "document.addEventListener('readystatechange', () => { document.body.dataset.viewer = ''; }, { once: true })";
    page.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source }));
    page.go(&scene.address("/web/desktop?id=1"));
    page.until("document.querySelector('#cover-title').textContent.includes('built without the desktop viewer')");
    page.shot("no-viewer");
    no_complaints(&page);
}

#[test]
fn a_desktop_restarts_from_its_card() {
    let scene = Scene::new();
    let page = scene.browser.page(1280, 800);
    page.go(&scene.address("/"));
    page.log_in("ann", "secret");
    page.until("document.querySelectorAll('.card').length > 3");
    page.eval("[...document.querySelectorAll('[data-verb=restart]')].find(b => b.getAttribute('aria-label').includes('run')).click()");
    page.until("document.querySelector('#sure').open");
    page.click("#sure-yes");
    let restarted = |state: &State| {
        let vm = &state.vms[&VmId(vm::RUNNING)];
        (vm.state == VmState::Stopped && vm.want == Want::Run).then_some(())
    };
    scene.world.fake.wait("stopped, and wanted again", restarted);
    page.until("document.querySelector('.card .badge').className.includes('stopped')");
    no_complaints(&page);
}

#[test]
fn a_press_on_a_card_that_changes_under_the_finger_is_not_lost() {
    let scene = Scene::new();
    let page = scene.browser.page(1280, 800);
    page.go(&scene.address("/"));
    page.log_in("ann", "secret");
    page.until("document.querySelectorAll('.card').length > 3");
    let middle = "(() => { const r = document.querySelector('.card .primary').getBoundingClientRect();
        return [r.x + r.width / 2, r.y + r.height / 2]; })()";
    let at = page.eval(middle);
    let mouse = |kind: &str, buttons: u32| {
        let event =
            json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "buttons": buttons, "clickCount": 1 });
        page.call("Input.dispatchMouseEvent", event);
    };
    mouse("mousePressed", 1);
    scene.world.fake.state().vms.get_mut(&VmId(vm::RUNNING)).expect("there").state = VmState::Stopping;
    page.until("document.querySelector('.card .badge').className.includes('stopping')");
    mouse("mouseReleased", 0);
    page.until("location.pathname === '/web/desktop'");
}

#[test]
fn the_only_desktop_is_opened_at_once_and_a_stopped_one_starts_with_its_steps_told() {
    let scene = Scene::new();
    scene.world.fake.state().vms.get_mut(&VmId(vm::BLOCKED)).expect("there").note = Some("back at noon");
    let page = scene.browser.page(1280, 800);
    page.go(&scene.address("/"));
    page.log_in("bob", "hunter2");
    page.until("location.pathname === '/web/desktop'");
    shown(&page);
    let other = scene.browser.page(1280, 800);
    other.go(&scene.address("/"));
    other.log_in("ann", "secret");
    other.until("document.querySelectorAll('.card').length > 3");
    other.go(&scene.address("/web/desktop?id=7"));
    other.until("document.querySelectorAll('#steps li').length >= 2");
    other.shot("starting");
    other.go(&scene.address("/web/desktop?id=5"));
    other.until("document.querySelector('#cover-code').textContent.includes('R207')");
    assert!(other.eval("document.body.innerText").as_str().expect("text").contains("the image is broken"));
    other.shot("failed");
    other.go(&scene.address("/web/desktop?id=3"));
    other.until("document.querySelector('#cover-code').textContent.includes('R203')");
    other.until("document.querySelector('#cover-text').textContent === 'back at noon'");
    other.shot("blocked");
    no_complaints(&page);
    no_complaints(&other);
}

#[test]
fn a_second_browser_takes_the_desktop_and_the_first_is_told_and_may_take_it_back() {
    let scene = Scene::new();
    let first = open(&scene, 1280, 800);
    let second = open(&scene, 1024, 768);
    first.until("document.querySelector('#cover-code').textContent.includes('R211')");
    first.shot("taken-over");
    first.click("#cover-go");
    shown(&first);
    second.until("document.querySelector('#cover-code').textContent.includes('R211')");
    no_complaints(&first);
    no_complaints(&second);
}

#[test]
fn a_desktop_that_ends_before_its_first_picture_is_opened_again() {
    let scene = Scene::new();
    scene.desk.blank.store(true, std::sync::atomic::Ordering::Relaxed);
    let page = open(&scene, 1280, 800);
    scene.world.fake.wait("opened again", |state| (state.opened.len() == 2).then_some(()));
    page.until("document.querySelector('#banner').hidden && document.querySelector('#cover').hidden");
    types(&scene, &page, "here after all\n");
    no_complaints(&page);
}

#[test]
fn an_administrator_ends_a_session_within_a_second_with_the_reason() {
    let scene = Scene::new();
    let page = open(&scene, 1280, 800);
    let began = std::time::Instant::now();
    let abort = ToRouter::Abort { vm: VmId(vm::RUNNING), session: None, reason: "maintenance at noon".to_owned() };
    scene.world.fake.say(abort);
    page.until("document.body.innerText.includes('maintenance at noon')");
    assert!(began.elapsed() < std::time::Duration::from_secs(1), "{:?}", began.elapsed());
    page.shot("cut");
    no_complaints(&page);
}

#[test]
fn an_administrator_who_gives_no_reason_is_told_of_once() {
    let scene = Scene::new();
    let page = open(&scene, 1280, 800);
    let reason = model::sync::ENDED.to_owned();
    scene.world.fake.say(ToRouter::Abort { vm: VmId(vm::RUNNING), session: None, reason });
    page.until("document.querySelector('#cover-code').textContent.includes('R210')");
    assert_eq!(page.eval("document.body.innerText.match(/administrator/g).length"), 1);
    assert_eq!(page.eval("document.querySelector('#cover-text').hidden"), true);
}

#[test]
fn a_network_that_comes_back_brings_the_desktop_back() {
    let scene = Scene::new();
    let page = open(&scene, 1280, 800);
    types(&scene, &page, "before\n");
    page.offline(true);
    page.eval("roost.channel.lost()");
    page.until("!document.querySelector('#banner').hidden");
    page.shot("lost");
    page.offline(false);
    page.until("document.querySelector('#banner').hidden");
    shown(&page);
    types(&scene, &page, "after\n");
    scene.desk.holds("typed", |typed| typed == b"before\nafter\n");
}

#[test]
fn text_is_copied_and_pasted_both_ways() {
    let scene = Scene::new();
    let page = open(&scene, 1280, 800);
    scene.desk.ready();
    page.click("#handle");
    page.click("#b-clipboard");
    page.eval("document.querySelector('#clip').value = 'pasted text'; document.querySelector('#clip').dispatchEvent(new Event('input')); 1");
    page.shot("clipboard");
    page.eval("document.querySelector('#d-clipboard').close()");
    // The middle button pastes what the desktop's clipboard holds into the terminal's own selection only when
    // both are the same, which Xvnc sees to.
    page.middle_click_at(300.0, 200.0);
    // The text comes only when the terminal asks for it, so it may be behind the first line's end.
    let began = std::time::Instant::now();
    while !std::fs::read_to_string(scene.desk.home.join("typed")).expect("text").contains("pasted text\n") {
        assert!(
            began.elapsed() < std::time::Duration::from_secs(10),
            "it is not pasted: {}",
            page.shot("paste").display()
        );
        page.type_text("\n");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    // A drag over a line selects it, which the desktop then offers.
    page.drag((4.0, 28.0), (400.0, 120.0));
    page.until("document.querySelector('#clip').value.includes('pasted') && document.querySelector('#clip').value !== 'pasted text'");
    no_complaints(&page);
}

#[test]
fn files_are_brought_and_taken_with_equal_bytes() {
    let scene = Scene::new();
    let page = open(&scene, 1280, 800);
    page.click("#handle");
    page.click("#b-files");
    page.until("document.querySelectorAll('#entries li').length > 0");
    // 10 MB made in the page, with a value that tells each byte's place.
    page.eval(
        "globalThis.big = new File([Uint32Array.from({ length: 2_500_000 }, (_, i) => i)], 'big one.bin');
         const list = new DataTransfer(); list.items.add(big); document.querySelector('#pick').files = list.files;
         document.querySelector('#pick').dispatchEvent(new Event('change')); 1",
    );
    page.until("document.querySelector('#transfers').innerText.includes('is in the desktop')");
    let brought = std::fs::read(scene.desk.home.join("big one.bin")).expect("there");
    assert!(brought.chunks(4).enumerate().all(|(i, b)| b == (i as u32).to_le_bytes()) && brought.len() == 10_000_000);
    page.until("document.querySelector('#entries').innerText.includes('big one.bin')");
    page.shot("files");
    let same = "fetch([...document.querySelectorAll('#entries a')].find(a => a.download === 'big one.bin').href)
        .then(r => r.arrayBuffer()).then(b => new Uint32Array(b)).then(w => w.length === 2_500_000 && w.every((v, i) => v === i))";
    assert_eq!(page.eval(same), true);
    no_complaints(&page);
}

#[test]
fn an_upload_that_is_cut_off_goes_on_where_it_stopped() {
    let scene = Scene::new();
    let page = open(&scene, 1280, 800);
    page.click("#handle");
    page.click("#b-files");
    page.until("document.querySelectorAll('#entries li').length > 0");
    scene.desk.cut.store(true, std::sync::atomic::Ordering::Relaxed);
    page.eval(
        "globalThis.big = new File([Uint32Array.from({ length: 1_500_000 }, (_, i) => i)], 'cut.bin');
         const list = new DataTransfer(); list.items.add(big); document.querySelector('#pick').files = list.files;
         document.querySelector('#pick').dispatchEvent(new Event('change')); 1",
    );
    page.until("document.querySelector('#transfers').innerText.includes('is in the desktop')");
    let brought = std::fs::read(scene.desk.home.join("cut.bin")).expect("there");
    assert!(brought.chunks(4).enumerate().all(|(i, b)| b == (i as u32).to_le_bytes()) && brought.len() == 6_000_000);
    assert_eq!(*scene.desk.offsets.lock().expect("lock"), [0, 2_000_000]);
}

#[test]
fn an_upload_whose_last_answer_is_lost_is_not_sent_again() {
    let scene = Scene::new();
    let page = open(&scene, 1280, 800);
    page.click("#handle");
    page.click("#b-files");
    page.until("document.querySelectorAll('#entries li').length > 0");
    scene.desk.deaf.store(true, std::sync::atomic::Ordering::Relaxed);
    page.eval(
        "const list = new DataTransfer(); list.items.add(new File(['once'], 'once.txt'));
         document.querySelector('#pick').files = list.files;
         document.querySelector('#pick').dispatchEvent(new Event('change')); 1",
    );
    page.until("document.querySelector('#transfers').innerText.includes('once.txt is in the desktop')");
    assert_eq!(*scene.desk.offsets.lock().expect("lock"), [0]);
}
