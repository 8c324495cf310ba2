//! The chat page at `/`: plain HTML, CSS and JavaScript modules, out of the program. It asks for nothing but this server's routes.

use axum::{
    Router,
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
    routing::get,
};

/// A path, its media type, and what is there.
const FILES: [(&str, &str, &str); 6] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/answer.js", "text/javascript; charset=utf-8", include_str!("page/answer.js")),
    ("/markdown.js", "text/javascript; charset=utf-8", include_str!("page/markdown.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// Whatever a model writes: the browser runs no script but these files, loads nothing from elsewhere, makes no HTML of a text, and shows
/// the page in no other page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The page's routes.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, mime, text)| {
        let headers: [(HeaderName, &str); 5] = [
            (CONTENT_TYPE, mime),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            // Another version of the program may be at this address tomorrow.
            (CACHE_CONTROL, "no-cache"),
        ];
        router.route(path, get(move || async move { (headers, text) }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_names_is_served_and_nothing_else_is() {
        let is_served = |name: &str| FILES.iter().any(|(path, ..)| path.strip_prefix('/') == Some(name));
        let mut n = 0;
        for (path, _, text) in FILES {
            // What stands behind these is an address. A comment or a text has none of them.
            for before in ["href=\"", "src=\"", "from \"./", "import(\"./", "url("] {
                for found in text.split(before).skip(1) {
                    let name = found.split(['"', ')']).next().unwrap_or_default();
                    assert!(is_served(name), "{path}: {name}");
                    n += 1;
                }
            }
        }
        assert!(n >= FILES.len() - 1, "{n} addresses");
    }

    #[test]
    fn nothing_makes_html_of_a_text() {
        for (path, _, text) in FILES {
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "DOMParser",
                "eval(",
                "srcdoc",
                "new Function",
            ] {
                assert!(!text.contains(way), "{path}: {way}");
            }
        }
    }
}
