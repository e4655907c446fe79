//! Which guests have a task here, and what each is told. Level-triggered: at any change the whole plan
//! is made anew and carried out.

use super::{
    Shared, Wanted, lxc,
    plan::{Action, Closing, Order, plan},
    probe,
    record::{self, Record},
    task::{Task, Wish},
};
use crate::report::chain;
use model::{VmId, key, key::Config, state::VmState, sync::GuestSpec};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::sync::watch;

/// The manager's state.
pub struct Manager {
    shared: Arc<Shared>,
    wanted: watch::Receiver<Option<Wanted>>,
    closing: watch::Receiver<Closing>,
    /// Wishes of guests with a task; dropping one ends its task.
    wishes: BTreeMap<VmId, watch::Sender<Wish>>,
}

impl Manager {
    /// Starts tasks for the guests that are here already.
    pub async fn adopt(
        shared: Arc<Shared>,
        wanted: watch::Receiver<Option<Wanted>>,
        closing: watch::Receiver<Closing>,
    ) -> Self {
        let mut manager = Self { shared, wanted, closing, wishes: BTreeMap::new() };
        let run_guests = manager.shared.engine.paths.at(model::paths::RUN_GUESTS);
        // The probe guest is nobody's VM: what an earlier run left of it is removed, not taken up.
        for record in Record::all(&run_guests).into_iter().filter(|record| record.spec.vm != probe::VM) {
            manager.resume(record);
        }
        manager.remove_strays().await;
        manager
    }

    fn resume(&mut self, record: Record) {
        let config = self.wanted.borrow().as_ref().map(|w| w.config.clone()).unwrap_or_default();
        let order = match record.report.state {
            VmState::Starting | VmState::Running | VmState::Debugging => Order::Run,
            VmState::Stopped | VmState::Stopping | VmState::Zombie => Order::Stop,
        };
        let wish = Wish { spec: Arc::new(record.spec.clone()), config, order };
        let (vm, (sender, receiver)) = (record.spec.vm, watch::channel(wish));
        self.wishes.insert(vm, sender);
        // Its task says more at once; until then the guest is known at least.
        let report = record.report.clone();
        self.shared.reports.send_modify(|reports| drop(reports.insert(vm, report)));
        tokio::spawn(Task::resume(self.shared.clone(), receiver, record).run());
    }

    /// Cgroups of guests that nothing is known of: without a record there is no life to go on with.
    async fn remove_strays(&self) {
        let known: BTreeSet<VmId> = self.wishes.keys().copied().chain([probe::VM]).collect();
        for vm in self.shared.engine.lxc().remains().into_iter().filter(|vm| !known.contains(vm)) {
            tracing::warn!(guest = vm.0, cgroup = lxc::name(vm), "Removing the remains of an unknown guest");
            if let Err(error) = self.shared.engine.clean_up(vm, true).await {
                tracing::error!(guest = vm.0, error = %chain(&error), "The remains of an unknown guest stay");
            }
        }
    }

    /// Runs for ever. Each branch is cancel-safe: all are watches.
    pub async fn run(mut self) {
        let mut reports = self.shared.reports.subscribe();
        loop {
            reports.borrow_and_update();
            self.pass();
            tokio::select! {
                Ok(()) = self.wanted.changed() => {}
                Ok(()) = self.closing.changed() => {}
                Ok(()) = reports.changed() => {}
                else => return,
            }
        }
    }

    /// One pass: nothing, as long as nobody has said what is wanted, unless the node goes down.
    fn pass(&mut self) {
        let (wanted, closing) = (self.wanted.borrow_and_update().clone(), *self.closing.borrow_and_update());
        let Some(wanted) = wanted.or_else(|| (closing != Closing::No).then(Wanted::nothing)) else { return };
        self.shared.slots.resize(wanted.config.get(&key::STARTING_MAX));
        self.shared.engine.images.want(wanted.guests.iter().map(|spec| spec.image.digest));
        let observed: BTreeMap<_, _> = self.shared.reports.borrow().iter().map(|(vm, r)| (*vm, r.state)).collect();
        for action in plan(&wanted.guests, closing, &observed) {
            match action {
                Action::Order(vm, order) => self.tell(vm, order, &wanted),
                Action::Forget(vm) => self.forget(vm),
            }
        }
    }

    fn tell(&mut self, vm: VmId, order: Order, wanted: &Wanted) {
        let spec = wanted.guests.iter().find(|spec| spec.vm == vm);
        match (self.wishes.get(&vm), spec) {
            (Some(wish), spec) => tell(wish, spec, &wanted.config, order),
            (None, Some(spec)) => {
                let wish = Wish { spec: Arc::new(spec.clone()), config: wanted.config.clone(), order };
                let (sender, receiver) = watch::channel(wish);
                self.wishes.insert(vm, sender);
                tokio::spawn(Task::new(self.shared.clone(), receiver).run());
            }
            (None, None) => {}
        }
    }

    fn forget(&mut self, vm: VmId) {
        self.wishes.remove(&vm);
        record::forget(&self.shared.engine.paths, vm);
        self.shared.reports.send_modify(|reports| drop(reports.remove(&vm)));
        tracing::info!(guest = vm.0, "A guest is no longer this node's");
    }
}

/// Changes a wish, and wakes the task only if it differs.
fn tell(wish: &watch::Sender<Wish>, spec: Option<&GuestSpec>, config: &Arc<Config>, order: Order) {
    wish.send_if_modified(|wish| {
        let new_spec = spec.filter(|spec| **spec != *wish.spec);
        let changed = new_spec.is_some() || wish.order != order || *wish.config != **config;
        if let Some(spec) = new_spec {
            wish.spec = Arc::new(spec.clone());
        }
        (wish.config, wish.order) = (config.clone(), order);
        changed
    });
}

impl Wanted {
    /// Before anybody has said anything.
    pub(super) fn nothing() -> Self {
        Self { guests: vec![], config: Arc::default() }
    }
}
