// Choose a photograph and see what the network says; of a detector, where its objects are as well.

import PhotosUI
import QtoolsPreparation
import QtoolsVision
import SwiftUI

@main
struct SampleApp: App {
    var body: some Scene {
        WindowGroup { AnswersView() }
    }
}

struct AnswersView: View {
    @State private var chosen: PhotosPickerItem?
    @State private var answers: [Line] = []
    @State private var shown: Shown?
    @State private var message = "Choose a picture"
    @State private var network: Network?

    var body: some View {
        NavigationStack {
            List {
                Text(message)
                if let shown { BoxesView(shown: shown) }
                ForEach(answers, id: \.number) { answer in
                    LabeledContent(answer.name, value: answer.share.formatted(.percent.precision(.fractionLength(1))))
                }
            }
            .toolbar { PhotosPicker("Picture", selection: $chosen, matching: .images) }
        }
        .onChange(of: chosen) {
            Task { await answer() }
        }
    }

    @MainActor
    private func answer() async {
        do {
            guard let data = try await chosen?.loadTransferable(type: Data.self) else { return }
            let opened: Network
            if let ready = network {
                opened = ready
            } else {
                opened = try await Network.carried()
                network = opened
            }
            let picture = try Picture(encoded: data)
            let start = ContinuousClock.now
            try answer(picture, opened)
            message = "\(picture.width) x \(picture.height), \(ContinuousClock.now - start)"
        } catch {
            answers = []
            shown = nil
            message = "\(error)"
        }
    }

    /// The likeliest classes, or what a detector is sure of.
    private func answer(_ picture: Picture, _ opened: Network) throws {
        guard opened.contract.decoding != nil else {
            let likeliest = try Classifier(opened).classify(picture)
            answers = likeliest.enumerated().map { Line($0, $1.label, $1.index, $1.probability) }
            return
        }
        let sure = try Detector(opened).detect(picture).filter { $0.score >= 0.5 }
        answers = sure.enumerated().map { Line($0, $1.label, $1.index, $1.score) }
        shown = try Shown(picture, sure, opened.contract.preparation)
    }
}

struct Line {
    let number: Int
    let name: String
    let share: Double

    init(_ number: Int, _ label: String, _ index: Int, _ share: Double) {
        self.number = number
        self.name = label.isEmpty ? "class \(index)" : label
        self.share = share
    }
}
