//! Whether everybody can use the pages: how each looks in light and dark, on a phone and on a wall, what axe
//! says of it, and the ways in and out for those who have only a keyboard or only a finger.

use crate::{
    axe::accessible,
    cdp::Page,
    pages::{Scene, no_complaints, shown},
    world::vm,
};
use serde_json::json;

/// Presses a key, with the modifiers that the browser's number says.
fn press(page: &Page<'_>, key: &str, number: u32, modifiers: u32) {
    let event = |kind: &str| json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": number, "modifiers": modifiers });
    let mut down = event("keyDown");
    if key == "Enter" {
        down["text"] = "\r".into();
    }
    page.call("Input.dispatchKeyEvent", down);
    page.call("Input.dispatchKeyEvent", event("keyUp"));
}

/// Goes on with Tab until a selector has the focus.
#[track_caller]
fn tab_to(page: &Page<'_>, selector: &str) {
    for _ in 0..40 {
        if page.eval(&format!("document.activeElement.matches({selector:?})")) == true {
            return;
        }
        press(page, "Tab", 9, 0);
    }
    panic!("Tab does not lead to {selector}: {}", page.eval("document.activeElement.outerHTML"));
}

#[test]
fn the_keyboard_alone_leads_in_through_and_out() {
    let scene = Scene::new();
    let page = scene.browser.page(1280, 800);
    page.go(&scene.address("/"));
    page.until("document.activeElement?.id === 'user'");
    page.type_text("ann");
    tab_to(&page, "#password");
    page.type_text("secret\n");
    page.until("document.querySelectorAll('.card').length > 3");
    tab_to(&page, "[data-verb=connect]");
    press(&page, "Enter", 13, 0);
    shown(&page);
    scene.desk.ready();
    page.type_text("no mouse\n");
    scene.desk.holds("typed", |typed| typed.ends_with(b"no mouse\n"));
    for (key, number, held) in [("Control", 17, 2), ("Alt", 18, 3), ("Shift", 16, 11)] {
        let down = json!({ "type": "keyDown", "key": key, "code": format!("{key}Left"), "windowsVirtualKeyCode": number, "modifiers": held });
        page.call("Input.dispatchKeyEvent", down);
    }
    page.until("document.querySelector('#tools').contains(document.activeElement)");
    for (key, number) in [("Shift", 16), ("Alt", 18), ("Control", 17)] {
        let up = json!({ "type": "keyUp", "key": key, "code": format!("{key}Left"), "windowsVirtualKeyCode": number });
        page.call("Input.dispatchKeyEvent", up);
    }
    tab_to(&page, "#b-leave");
    press(&page, "Enter", 13, 0);
    page.until("document.activeElement?.id === 'cover-go'");
    press(&page, "Enter", 13, 0);
    shown(&page);
    no_complaints(&page);
}

#[test]
fn a_phone_reaches_the_tools_by_touch_and_types_with_its_own_keyboard() {
    let scene = Scene::new();
    let page = scene.browser.page(390, 844);
    page.call("Emulation.setTouchEmulationEnabled", json!({ "enabled": true }));
    let tap = |selector: &str| {
        let at = page.eval(&format!(
            "(() => {{ const r = document.querySelector({selector:?}).getBoundingClientRect(); return {{ x: r.x + r.width / 2, y: r.y + r.height / 2 }}; }})()"
        ));
        page.call("Input.dispatchTouchEvent", json!({ "type": "touchStart", "touchPoints": [at] }));
        page.call("Input.dispatchTouchEvent", json!({ "type": "touchEnd", "touchPoints": [] }));
    };
    page.go(&scene.address("/"));
    page.log_in("ann", "secret");
    page.until("document.querySelectorAll('.card').length > 3");
    tap(".card .primary");
    shown(&page);
    scene.desk.ready();
    tap("#handle");
    page.until("document.querySelector('#b-keyboard').offsetHeight > 0");
    page.shot("phone-tools");
    tap("#b-keyboard");
    page.until("document.activeElement?.id === 'typing'");
    page.call("Input.insertText", json!({ "text": "by touch" }));
    press(&page, "Enter", 13, 0);
    scene.desk.holds("typed", |typed| typed.ends_with(b"by touch\n"));
    no_complaints(&page);
}

#[test]
fn every_page_in_light_dark_small_and_large_for_everybody() {
    let scene = Scene::new();
    for (name, width, height, scheme, language) in [
        ("light", 1280, 800, "light", "en"),
        ("dark", 1280, 800, "dark", "es"),
        ("phone", 390, 844, "dark", "en"),
        ("4k", 3840, 2160, "light", "es"),
    ] {
        let page = scene.browser.page(width, height);
        page.scheme(scheme);
        page.language(language);
        let seen = |what: &str| {
            page.shot(&format!("{name}-{what}"));
            accessible(&page, &format!("{name}-{what}"));
            let narrow = page.eval("document.documentElement.scrollWidth <= innerWidth");
            assert_eq!(narrow, true, "{name}-{what} scrolls sideways");
            let away =
                "performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith(location.origin))";
            assert_eq!(page.eval(away), json!([]), "{name}-{what} asks elsewhere");
        };
        front(&scene, &page, &seen);
        covers(&scene, &page, &seen);
        tools(&scene, &page, &seen);
        no_complaints(&page);
    }
}

/// Log-in and cards.
fn front(scene: &Scene, page: &Page<'_>, seen: &dyn Fn(&str)) {
    page.go(&scene.address("/"));
    page.until("document.querySelector('#login')?.hidden === false");
    seen("login");
    page.log_in("eve", "apple");
    page.until("document.querySelector('#login-fault').textContent.includes('R107')");
    seen("login-code");
    page.log_in("ann", "secret");
    page.until("document.querySelectorAll('.card').length > 3");
    seen("cards");
    page.click("#who");
    seen("cards-account");
    page.click("#who");
    page.click("[data-verb=stop]");
    page.until("document.querySelector('#sure').open");
    seen("cards-sure");
}

/// Progress, and what a desktop that cannot be had shows.
fn covers(scene: &Scene, page: &Page<'_>, seen: &dyn Fn(&str)) {
    page.go(&scene.address("/web/desktop?id=7"));
    page.until("document.querySelectorAll('#steps li').length >= 2");
    seen("starting");
    for (id, code) in [(vm::FAILING, "R207"), (vm::BLOCKED, "R203"), (vm::NOWHERE, "R201")] {
        page.go(&scene.address(&format!("/web/desktop?id={id}")));
        page.until(&format!("document.querySelector('#cover-code').textContent.includes('{code}')"));
        seen(&format!("failed-{code}"));
    }
}

/// The desktop with its tools, and the page that is left of it.
fn tools(scene: &Scene, page: &Page<'_>, seen: &dyn Fn(&str)) {
    page.go(&scene.address("/web/desktop?id=1"));
    shown(page);
    page.click("#handle");
    page.until("!document.querySelector('#tools').hidden");
    seen("desktop");
    page.click("#b-files");
    page.until("document.querySelectorAll('#entries li').length > 0");
    seen("files");
    page.click("#files-close");
    for (button, dialog) in [("#b-settings", "d-settings"), ("#b-clipboard", "d-clipboard")] {
        page.click("#handle");
        page.click(button);
        page.until(&format!("document.querySelector('#{dialog}').open"));
        seen(dialog);
        page.eval(&format!("document.querySelector('#{dialog}').close()"));
    }
    page.click("#handle");
    page.click("#b-leave");
    page.until("!document.querySelector('#cover').hidden");
    seen("left");
}
