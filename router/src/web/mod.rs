//! Pages.
mod logins;
mod throttle;
