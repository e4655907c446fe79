//! People.

use super::{Tx, filter::clause, signed, unsigned};
use crate::error::{Error, Result};
use model::{
    UserId,
    api::UserRow,
    filter::{Filter, Object},
    key,
};
use rusqlite::params_from_iter;

/// A user as login needs it.
#[derive(Clone)]
pub struct Account {
    /// Who.
    pub id: UserId,
    /// The login as stored.
    pub login: String,
    /// PHC string of the password; none: no login by password.
    pub password: Option<String>,
    /// Sealed secret of its one-time codes, and the step of the last one used; none: no code is asked for.
    pub totp: Option<(String, u64)>,
}

impl Tx<'_> {
    /// A login as it is stored: without spaces around it, in lower case unless the cluster tells cases apart.
    pub fn normal_login(&self, login: &str) -> Result<String> {
        let login = login.trim();
        Ok(if self.config()?.get(&key::LOGIN_CASE_SENSITIVE) { login.to_owned() } else { login.to_lowercase() })
    }

    /// Adds a user; `hash` is the PHC string of the password.
    pub fn user_add(&self, login: &str, hash: Option<&str>) -> Result<UserId> {
        let login = self.normal_login(login)?;
        check_login(&login)?;
        if self.account(&login)?.is_some() {
            return Err(Error::Taken { what: "user", found: login });
        }
        self.exec("add a user", "INSERT INTO users (login, password) VALUES (?, ?)", (&login, hash))?;
        self.new_id().map(UserId)
    }

    /// Changes the password of a login.
    pub fn user_passwd(&self, login: &str, hash: &str) -> Result<UserId> {
        let login = self.normal_login(login)?;
        let account = self.account(&login)?.ok_or_else(|| Error::none("user", &login))?;
        self.exec("change a password", "UPDATE users SET password = ? WHERE id = ?", (hash, account.id.0))?;
        Ok(account.id)
    }

    /// The user of a normal login.
    pub fn account(&self, login: &str) -> Result<Option<Account>> {
        let sql = "SELECT id, login, password, totp, totp_step FROM users WHERE login = ?";
        self.one("read a user", sql, [login], |row| {
            let (sealed, step) = (row.get::<_, Option<String>>(3)?, unsigned(row.get(4)?));
            let (id, login, password) = (UserId(row.get(0)?), row.get(1)?, row.get(2)?);
            Ok(Account { id, login, password, totp: sealed.map(|sealed| (sealed, step)) })
        })
    }

    /// Sets the sealed secret of a user's one-time codes, or takes it away.
    pub fn totp_set(&self, user: UserId, sealed: Option<&str>) -> Result<()> {
        let sql = "UPDATE users SET totp = ?, totp_step = 0 WHERE id = ?";
        self.exec("set a user's one-time codes", sql, (sealed, user.0))?;
        Ok(())
    }

    /// Uses up a code and all before it; false when it was used already, as by a login of the same moment.
    pub fn totp_use(&self, user: UserId, step: u64) -> Result<bool> {
        let sql = "UPDATE users SET totp_step = ?1 WHERE id = ?2 AND totp_step < ?1";
        Ok(self.exec("use up a one-time code", sql, (signed(step), user.0))? == 1)
    }

    /// Whether there is such a user.
    pub fn user_exists(&self, id: UserId) -> Result<bool> {
        Ok(self.count("look for a user", "SELECT count(*) FROM users WHERE id = ?", [id.0])? > 0)
    }

    /// Users that match.
    pub fn users(&self, filter: &Filter) -> Result<Vec<UserRow>> {
        let clause = clause(Object::User, filter);
        let sql = format!("SELECT u.id, u.login, u.totp IS NOT NULL FROM users u WHERE {} ORDER BY u.id", clause.sql);
        self.all("list users", &sql, params_from_iter(clause.params), |row| {
            Ok(UserRow { id: UserId(row.get(0)?), login: row.get(1)?, totp: row.get(2)? })
        })
    }

    /// Deletes a user without VMs.
    pub fn user_del(&self, id: UserId) -> Result<()> {
        let vms = self.count("count a user's VMs", "SELECT count(*) FROM vms WHERE user_id = ?", [id.0])?;
        if vms > 0 {
            return Err(Error::Refused(format!("it owns {vms} virtual machines: delete them first")));
        }
        let forget = "UPDATE vm_runtimes SET session_user = NULL WHERE session_user = ?";
        self.exec("forget a user's sessions", forget, [id.0])?;
        self.exec("delete a user", "DELETE FROM users WHERE id = ?", [id.0])?;
        Ok(())
    }
}

/// Logins become user names in guests and may stand before `:` in HTTP Basic.
fn check_login(login: &str) -> Result<()> {
    let legal = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ':' | '/' | ',' | '=' | '*' | '?');
    if login.is_empty() || login.len() > 64 || login.starts_with('-') || !login.chars().all(legal) {
        return Err(Error::Invalid(format!(
            "'{login}' is not a login: expected 1 to 64 characters without spaces and none of : / , = * ?, not beginning with -"
        )));
    }
    Ok(())
}
