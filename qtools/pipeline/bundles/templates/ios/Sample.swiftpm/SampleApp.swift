// Choose a photograph and see what the network says.

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
    @State private var message = "Choose a picture"
    @State private var network: Network?

    var body: some View {
        NavigationStack {
            List {
                Text(message)
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
            answers = try lines(opened, picture)
            message = "\(picture.width) x \(picture.height), \(ContinuousClock.now - start)"
        } catch {
            answers = []
            message = "\(error)"
        }
    }

    /// The likeliest classes, or of a detector all objects; where they are is left to the app.
    private func lines(_ opened: Network, _ picture: Picture) throws -> [Line] {
        let found: [(String, Int, Double)]
        if opened.contract.decoding == nil {
            found = try Classifier(opened).classify(picture).map { ($0.label, $0.index, $0.probability) }
        } else {
            found = try Detector(opened).detect(picture).map { ($0.label, $0.index, $0.score) }
        }
        return found.enumerated().map { number, each in
            Line(number: number, name: each.0.isEmpty ? "class \(each.1)" : each.0, share: each.2)
        }
    }
}

struct Line {
    let number: Int
    let name: String
    let share: Double
}
